"""How Alembic runs here: on the connection that `handrail_console.migrate` gives, inside of its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
