"""reminders

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"

UPGRADE = """
CREATE TABLE reminders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id bigint,
  send_at timestamptz NOT NULL,
  sent_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  delivery_id uuid NOT NULL DEFAULT gen_random_uuid(),
  attempts smallint NOT NULL DEFAULT 0,
  user_id text NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 255),
  message text NOT NULL CHECK (char_length(message) BETWEEN 1 AND 500),
  channel text NOT NULL CHECK (channel IN ('email', 'whatsapp', 'log')),
  recipient text NOT NULL CHECK (char_length(recipient) BETWEEN 1 AND 320),
  status text NOT NULL DEFAULT 'scheduled'
    CHECK (status IN ('scheduled', 'queued', 'retrying', 'sent', 'failed', 'cancelled')),
  last_error text,
  CONSTRAINT reminders_sent_has_its_time CHECK ((status = 'sent') = (sent_at IS NOT NULL)),
  CONSTRAINT reminders_queued_has_its_job
    CHECK (status NOT IN ('queued', 'retrying') OR job_id IS NOT NULL)
);
COMMENT ON COLUMN reminders.delivery_id IS
  'names one intended delivery: the same through every retry, another after every change';
COMMENT ON COLUMN reminders.attempts IS 'how often its present job has tried to send it';

CREATE INDEX reminders_due ON reminders (send_at, id) WHERE status = 'scheduled';
CREATE INDEX reminders_user ON reminders (user_id, id);
-- Sent ones are the bulk, and are never looked for by status.
CREATE INDEX reminders_unsent ON reminders (status, id) WHERE status <> 'sent';
"""

DOWNGRADE = "DROP TABLE reminders"


def upgrade() -> None:
    """A new table: old workers do not know it and keep running."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Drops every reminder; their jobs stay and end as skipped."""
    op.execute(DOWNGRADE)
