"""What a frozen value answers is worked out once, and never told of another value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from policies.once import once


@dataclass(frozen=True, kw_only=True)
class Shelf:
    books: int
    asked: list[str] = field(default_factory=list)

    @once
    def read(self, who: str = "ada") -> str:
        self.asked.append(who)
        return f"{who} has {self.books}"

    @once
    def lent(self, who: str) -> str:
        return f"{who} took {self.books}"


def test_an_answer_is_worked_out_once_per_arguments() -> None:
    shelf = Shelf(books=3)
    assert [shelf.read("ada"), shelf.read("ben"), shelf.read("ada")] == ["ada has 3", "ben has 3", "ada has 3"]
    assert shelf.asked == ["ada", "ben"]


def test_methods_and_names_of_arguments_are_not_taken_for_each_other() -> None:
    shelf = Shelf(books=3)
    assert (shelf.read("ada"), shelf.lent("ada")) == ("ada has 3", "ada took 3")
    assert (shelf.read(), shelf.read(who="ben"), shelf.read()) == ("ada has 3", "ben has 3", "ada has 3")


def test_a_copy_with_other_fields_begins_anew() -> None:
    shelf = Shelf(books=3)
    shelf.read("ada")
    assert replace(shelf, books=4).read("ada") == "ada has 4"
    assert shelf == Shelf(books=3, asked=["ada", "ada"]), "what is remembered is no part of the value"
