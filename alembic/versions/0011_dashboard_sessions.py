"""dashboard_sessions: who is signed in to the dashboard

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"

UPGRADE = """
CREATE TABLE dashboard_sessions (
  id_hash bytea PRIMARY KEY,
  subject text NOT NULL,
  role text,
  api_key_prefix text,
  created_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL
);
CREATE INDEX dashboard_sessions_subject ON dashboard_sessions (subject);
CREATE INDEX dashboard_sessions_expires_at ON dashboard_sessions (expires_at);
COMMENT ON TABLE dashboard_sessions IS
  'browsers that are signed in; the hash of what their cookie holds, and whose rights they have';
COMMENT ON COLUMN dashboard_sessions.role IS 'of a token; NULL where an API key signed in';
"""


def upgrade() -> None:
    """A new table: the version before has no dashboard."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Everybody is signed out."""
    op.execute("DROP TABLE dashboard_sessions")
