"""The traits that Segment reserves, as TypedDicts.

    traits: UserTraits = {"email": "a@example.com", "firstName": "Ada"}
    await client.identify("user-1", traits)

Add your own traits in a subclass. Segment also takes these names in snake_case.
(https://segment.com/docs/connections/spec/identify/#traits, https://segment.com/docs/connections/spec/group/#traits)
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TypedDict

__all__ = ["Address", "Company", "GroupTraits", "UserTraits"]


class Address(TypedDict, total=False):
    """A postal address."""

    city: str
    country: str
    postalCode: str
    state: str
    street: str


class Company(TypedDict, total=False):
    """The company of a user."""

    name: str
    id: str | int
    industry: str
    employee_count: float
    plan: str


class UserTraits(TypedDict, total=False):
    """The reserved traits of `identify`."""

    address: Address
    age: float
    avatar: str
    birthday: str | date | datetime
    company: Company
    createdAt: str | datetime
    description: str
    email: str
    firstName: str
    gender: str
    id: str
    lastName: str
    name: str
    phone: str
    title: str
    username: str
    website: str


class GroupTraits(TypedDict, total=False):
    """The reserved traits of `group`. The spec defines `employees` as text, and shows a number."""

    address: Address
    avatar: str
    createdAt: str | datetime
    description: str
    email: str
    employees: str | int
    id: str
    industry: str
    name: str
    phone: str
    plan: str
    website: str
