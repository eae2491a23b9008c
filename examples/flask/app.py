"""Flask and SQLAlchemy: a user and the job that welcomes them are one transaction, or nothing."""

import os
from typing import Any

from flask import Flask, abort, request
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from finmind_client.transaction import enqueue

url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
engine = create_engine(url)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "flask_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)


Base.metadata.create_all(engine)
app = Flask(__name__)


@app.post("/users")
def create_user() -> Any:
    email = request.get_json()["email"]
    try:
        with Session(engine) as session, session.begin():
            session.add(User(email=email))
            job = enqueue(session, "send_welcome", {"email": email})
    except IntegrityError:  # nothing was committed: no second welcome
        abort(409, f"{email} has an account already")
    return {"job_id": job.id}, 201
