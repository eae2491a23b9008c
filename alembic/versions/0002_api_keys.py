"""api_keys

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"

UPGRADE = """
CREATE TABLE api_keys (
  prefix text PRIMARY KEY CHECK (octet_length(prefix) BETWEEN 8 AND 12),
  secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
  name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
  scopes text[] NOT NULL CHECK (cardinality(scopes) > 0),
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
COMMENT ON COLUMN api_keys.secret_hash IS 'SHA-256 of the 256-bit random secret, which is kept nowhere';
"""


def upgrade() -> None:
    """Keys for machines."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Drops every key."""
    op.execute("DROP TABLE api_keys")
