"""Tables of history: each is the table without some capabilities, and does what the table does."""

from __future__ import annotations

import pytest

from vfio_migration.model import Spec, load
from vfio_migration.model.history import Form, forms, named
from vfio_migration.model.machine import decisions

FORMS = {form.name: form for form in forms()}


def table(form: Form) -> Spec:
    spec = named(form.name)
    assert spec is not None
    return spec


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_has_the_capabilities_of_its_row(form: Form) -> None:
    assert tuple(row.name for row in table(form).capabilities) == form.universe


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_routes_every_request_as_the_table_does(form: Form) -> None:
    spec = table(form)
    for profile in spec.profiles:
        for flags in spec.capability_sets(profile.name):
            small, whole = spec.machine(flags), load().machine(spec.names(flags))
            known = {row.name for row in spec.states}
            assert decisions(small).keys() == {k for k in decisions(whole) if k[1] in known}
            for key, route in decisions(small).items():
                other = decisions(whole)[key]
                assert (route.path, route.refused) == (other.path, other.refused)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_arc_of_a_form_is_a_step_to_the_next_place_of_its_grid(form: Form) -> None:
    spec = table(form)
    for arc in spec.arcs:
        here, there = spec.position(arc.from_), spec.position(arc.to)
        assert here is not None
        assert there is not None
        assert abs(here[0] - there[0]) + abs(here[1] - there[1]) == 1


def test_the_values_of_version_1_are_its_three_bits() -> None:
    spec = named("linux-v1")
    assert spec is not None
    value = {row.name: row.value for row in spec.states}
    running, saving, resuming = 1, 2, 4
    assert value == {
        "STOP": 0,
        "RUNNING": running,
        "STOP_COPY": saving,
        "PRE_COPY": saving | running,
        "RESUMING": resuming,
        "ERROR": saving | resuming,
    }


def test_the_reference_library_routes_as_the_text() -> None:
    library, text = named("libvfio-user"), named("vfio-user")
    assert library is not None
    assert text is not None
    small, whole = library.machine(), text.machine()
    for here in small.states:
        for there in small.states:
            one, other = (m.route(here.name, there.name) for m in (small, whole))
            assert (one.path, one.refused) == (other.path, other.refused)


@pytest.mark.parametrize(("name", "cells"), [("linux-6.1", 72), ("linux-6.2", 256)])
def test_a_form_has_as_many_cells_as_the_kernel_of_its_time(name: str, cells: int) -> None:
    spec = table(FORMS[name])
    # The vfio-user profile is no set of the kernel's.
    sets = spec.capability_sets(spec.profiles[0].name)
    assert len(sets) * len(spec.states) ** 2 == cells


def test_a_name_that_no_form_has_means_no_table() -> None:
    assert named("linux-4.0") is None
