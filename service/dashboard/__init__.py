"""The dashboard: pages rendered here, for operators in a browser.

A page is one file in `pages/` and one template of the same name:

- its routes, on `page_router()`, which asks who is signed in before anything else and renders errors
  as pages;
- a typed read model (a frozen dataclass) that a query of the engine or of a slice fills; templates
  hold loops and conditions, no logic;
- `render(request, "jobs.html", page=model)`; templates extend `base.html` and use `macros.html`;
- a line in `dashboard.PAGES`, and in `navigation.ITEMS` if the navigation shows it;
- a line in `tests/pages/test_policies.py`.

A chart is drawn here as well: `charts.py` makes a `Chart` of points, `charts.html` writes it as SVG with a table
behind it. What operators should look at first is a sentence of `attention.py`. Links that
more than one page has are in `links.py`.

What changes something is a form that POSTs to a route of the page. It asks for the permission that
the API asks for, calls the same function, and answers with `flash(see(request, path), "words")`.

Pages work without scripts. Scripts in `static/` make them nicer: `keyboard.js` (`/`, `?`, j and k),
`page.js` (times in the reader's zone, copy buttons), `live.js` with `morph.js` (regions that keep
themselves up to date). The Content-Security-Policy allows no inline script or style.

A region that keeps itself up to date is `<section id="counts" data-live>`: when jobs change, the page
is asked for again and what differs in the region is changed in place. Elements in it that can come, go
and move need an `id`; a form is left alone while somebody writes in it. A list whose rows must not
move names an address that answers with these rows alone: `data-live-url` on an element of the page.
What a page's data does outside of jobs is told by
`publisher_for(engine).changes.announce()`, or `announce_after_commit(session)`.
"""
