from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsl.btf import (
    Array,
    Btf,
    BtfError,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Kind,
    Member,
    Param,
    Ptr,
    Restrict,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Var,
    Void,
    Volatile,
)
from tests.btfwriter import BtfWriter


def every_kind(order: Literal["<", ">"] = "<") -> tuple[BtfWriter, dict[str, int]]:
    blob = BtfWriter(order=order)
    ids = {"int": blob.integer("int", 4, signed=True)}
    ids["ptr"] = blob.ptr(ids["int"])
    ids["array"] = blob.array(ids["int"], 16)
    ids["struct"] = blob.struct("point", 8, ("x", ids["int"], 0), ("y", ids["int"], 32))
    ids["union"] = blob.union("either", 4, ("a", ids["int"], 0), ("b", ids["int"], 0))
    ids["enum"] = blob.enum("sign", [("MINUS", -1), ("PLUS", 1)], signed=True)
    ids["forward"] = blob.forward("later")
    ids["typedef"] = blob.typedef("pid_t", ids["int"])
    ids["volatile"] = blob.volatile(ids["int"])
    ids["const"] = blob.const(ids["int"])
    ids["restrict"] = blob.restrict(ids["ptr"])
    ids["proto"] = blob.proto(ids["int"], ("value", ids["int"]), variadic=True)
    ids["func"] = blob.func("printk", ids["proto"])
    ids["var"] = blob.var("counter", ids["int"])
    ids["datasec"] = blob.datasec(".data..percpu", 64, (ids["var"], 8, 4))
    ids["float"] = blob.floating("double", 8)
    ids["decl_tag"] = blob.decl_tag("mark", ids["struct"], 1)
    ids["type_tag"] = blob.type_tag("user", ids["int"])
    ids["enum64"] = blob.enum64("flags", [("TOP", 1 << 63)])
    return blob, ids


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_kind_is_read_in_both_byte_orders(order: Literal["<", ">"]) -> None:
    blob, ids = every_kind(order)
    btf = Btf.parse(blob.blob())
    number = ids["int"]

    assert btf.count == blob.count == len(Kind)
    assert btf.types(0) == Void()
    assert btf.types(number) == Int(number, "int", 4, signed=True, char=False, boolean=False, bits=32, bit_offset=0)
    assert btf.types(ids["ptr"]) == Ptr(ids["ptr"], number)
    assert btf.types(ids["array"]) == Array(ids["array"], number, 1, 16)
    members = (Member("x", number, 0, 0), Member("y", number, 32, 0))
    assert btf.types(ids["struct"]) == Struct(ids["struct"], "point", 8, members)
    members = (Member("a", number, 0, 0), Member("b", number, 0, 0))
    assert btf.types(ids["union"]) == Union(ids["union"], "either", 4, members)
    assert btf.types(ids["enum"]) == Enum(ids["enum"], "sign", 4, signed=True, values=(("MINUS", -1), ("PLUS", 1)))  # type: ignore[arg-type]
    assert btf.types(ids["forward"]) == Fwd(ids["forward"], "later", union=False)
    assert btf.types(ids["typedef"]) == Typedef(ids["typedef"], "pid_t", number)
    assert btf.types(ids["volatile"]) == Volatile(ids["volatile"], number)
    assert btf.types(ids["const"]) == Const(ids["const"], number)
    assert btf.types(ids["restrict"]) == Restrict(ids["restrict"], ids["ptr"])
    assert btf.types(ids["proto"]) == FuncProto(ids["proto"], number, (Param("value", number),), variadic=True)
    assert btf.types(ids["func"]) == Func(ids["func"], "printk", ids["proto"], linkage=1)
    assert btf.types(ids["var"]) == Var(ids["var"], "counter", number, linkage=1)
    assert btf.types(ids["datasec"]) == Datasec(ids["datasec"], ".data..percpu", 64, ((ids["var"], 8, 4),))  # type: ignore[arg-type]
    assert btf.types(ids["float"]) == Float(ids["float"], "double", 8)
    assert btf.types(ids["decl_tag"]) == DeclTag(ids["decl_tag"], "mark", ids["struct"], 1)
    assert btf.types(ids["type_tag"]) == TypeTag(ids["type_tag"], "user", number)
    assert btf.types(ids["enum64"]) == Enum(ids["enum64"], "flags", 8, signed=False, values=(("TOP", 1 << 63),))  # type: ignore[arg-type]


def test_a_bitfield_is_read_with_and_without_kind_flag() -> None:
    blob = BtfWriter()
    number = blob.integer("unsigned int", 4)
    three_bits = blob.integer("unsigned int", 4, bits=3, offset=2)
    now = blob.struct("now", 4, ("low", number, 0, 5), ("high", number, 5, 27))
    old = blob.struct("old", 4, ("part", blob.typedef("u3", three_bits), 8), ("whole", number, 32))
    btf = Btf.parse(blob.blob())

    assert btf.types(now) == Struct(now, "now", 4, (Member("low", number, 0, 5), Member("high", number, 5, 27)))
    found = btf.types(old)
    assert isinstance(found, Struct)
    assert [(member.bit_offset, member.bitfield_size) for member in found.members] == [(10, 3), (32, 0)]


def test_enum_values_are_signed_in_btf_from_before_there_was_a_flag_for_it() -> None:
    old = BtfWriter()
    old.enum("state", [("BROKEN", -1), ("FINE", 0)])
    assert Btf.parse(old.blob()).enum_value("BROKEN") == (-1, Btf.parse(old.blob()).find("state", Enum))

    new = BtfWriter()
    new.enum("other", [("NEGATIVE", -1)], signed=True)
    new.enum("mask", [("ALL", 0xFFFFFFFF)])
    found = Btf.parse(new.blob()).enum_value("ALL")
    assert found is not None
    assert found[0] == 0xFFFFFFFF


def test_a_name_is_found_by_kind() -> None:
    blob = BtfWriter()
    number = blob.integer("int", 4)
    blob.forward("file")
    file = blob.struct("file", 4, ("f_mode", number, 0))
    blob.struct("file", 8, ("f_mode", number, 0))
    blob.func("file", blob.proto(0))
    btf = Btf.parse(blob.blob())

    found = btf.find("file", Struct)
    assert found is not None
    assert found.id == file
    assert btf.find("file", Fwd) is not None
    assert btf.find("file", Typedef) is None
    assert btf.find("fil", Struct) is None
    assert btf.find("", Struct) is None
    assert btf.names(Struct) == ["file"]


def test_a_name_that_is_the_end_of_another_string_is_found() -> None:
    blob = BtfWriter()
    blob.struct("task_struct", 0)
    shared = blob.struct("struct", 0)
    found = Btf.parse(blob.blob()).find("struct", Struct)
    assert found is not None
    assert (found.id, found.name) == (shared, "struct")


def test_members_are_found_through_anonymous_structs_and_unions() -> None:
    blob = BtfWriter()
    number = blob.integer("int", 4)
    inner = blob.struct("", 8, ("deep", number, 32))
    outer = blob.union("", 8, ("other", number, 0), ("", blob.const(inner), 0))
    top = blob.struct("top", 24, ("first", number, 0), ("", outer, 64), ("named", inner, 128))
    btf = Btf.parse(blob.blob())
    struct_ = btf.types(top)
    assert isinstance(struct_, Struct)

    path = btf.member_path(struct_, "deep")
    assert path is not None
    assert [step.name for step in path] == ["", "", "deep"]
    assert sum(step.bit_offset for step in path) == 96
    assert btf.member_path(struct_, "first") == (struct_.members[0],)
    assert btf.member_path(struct_, "inner") is None
    assert btf.member_names(struct_) == ("first", "named", "other", "deep")


def test_resolve_and_size_look_behind_typedefs_and_qualifiers() -> None:
    blob = BtfWriter()
    number = blob.integer("int", 4)
    hidden = blob.typedef("a", blob.const(blob.volatile(blob.type_tag("rcu", blob.typedef("b", number)))))
    matrix = blob.array(blob.array(hidden, 3), 5)
    nothing = blob.proto(0)
    btf = Btf.parse(blob.blob())

    assert btf.resolve(hidden).id == number
    assert btf.size_of(hidden) == 4
    assert btf.size_of(matrix) == 60
    for unsized in (0, nothing):
        with pytest.raises(BtfError, match="has no size"):
            btf.size_of(unsized)


def test_type_names_are_those_of_c() -> None:
    blob = BtfWriter()
    number = blob.integer("int", 4, signed=True)
    char = blob.integer("char", 1)
    task = blob.struct("task_struct", 0)
    pointer = blob.ptr(task)
    proto = blob.proto(number, ("p", pointer), ("n", number), variadic=True)
    cases = {
        0: "void",
        number: "int",
        task: "struct task_struct",
        pointer: "struct task_struct *",
        blob.ptr(pointer): "struct task_struct **",
        blob.ptr(blob.const(char)): "const char *",
        blob.const(blob.ptr(char)): "char * const",
        blob.array(char, 16): "char[16]",
        blob.array(blob.ptr(char), 4): "char *[4]",
        blob.ptr(blob.array(char, 4)): "char (*)[4]",
        blob.array(char, 0): "char[]",
        proto: "int (struct task_struct *, int, ...)",
        blob.ptr(proto): "int (*)(struct task_struct *, int, ...)",
        blob.ptr(blob.proto(0)): "void (*)(void)",
        blob.typedef("pid_t", number): "pid_t",
        blob.union("", 4): "union (anonymous)",
        blob.forward("sock"): "struct sock",
        blob.type_tag("user", number): "int",
        blob.ptr(blob.enum("reason", [])): "enum reason *",
    }
    btf = Btf.parse(blob.blob())
    assert {type_id: btf.type_name(type_id) for type_id in cases} == cases


def test_split_btf_continues_ids_and_strings_of_its_base() -> None:
    base = BtfWriter()
    number = base.integer("int", 4)
    common = base.struct("common", 4, ("value", number, 0))
    base.enum("base_enum", [("SHARED", 7)])
    module = BtfWriter(base=base)
    own = module.struct("own", 8, ("value", number, 0), ("extra", number, 32))
    module.typedef("common", common)
    module.enum("module_enum", [("MINE", 8)])
    kernel = Btf.parse(base.blob())
    btf = Btf.parse(module.blob(), kernel)

    assert btf.first_id == kernel.count == own
    assert btf.types(own) == Struct(own, "own", 8, (Member("value", number, 0, 0), Member("extra", number, 32, 0)))
    assert btf.find("own", Struct) is btf.types(own)
    assert btf.find("common", Struct) is kernel.types(common)
    assert btf.find_id("common", Typedef) == own + 1
    assert kernel.find("own", Struct) is None
    for name, value in (("SHARED", 7), ("MINE", 8)):
        found = btf.enum_value(name)
        assert found is not None
        assert found[0] == value
    assert btf.size_of(own) == 8


def test_a_module_without_strings_or_types_of_its_own_is_valid() -> None:
    base = BtfWriter()
    base.integer("int", 4)
    kernel = Btf.parse(base.blob())
    assert Btf.parse(BtfWriter(base=base).blob(), kernel).count == kernel.count


def test_btf_survives_pickling() -> None:
    blob, ids = every_kind()
    again = pickle.loads(pickle.dumps(Btf.parse(blob.blob())))
    assert again.type_name(ids["struct"]) == "struct point"


RECORDS = {
    "unknown kind": (31 << 24, 0),
    "kind 0": (0, 0),
    "cut off": (Kind.STRUCT << 24 | 9, 4),
    "string offset": (Kind.INT << 24, 4, 32),
}
PATCHES = {
    "magic": (0, b"\0"),
    "version": (2, b"\x09"),
    "header length": (4, struct.pack("<I", 8)),
    "types too long": (12, struct.pack("<I", 1 << 20)),
    "strings too long": (20, struct.pack("<I", 1 << 20)),
    "strings not ended": (24, b"A"),
    "string offset": (24, struct.pack("<I", 4096)),
}


def malformed(change: str) -> bytes:
    writer = BtfWriter()
    if change in RECORDS:
        info, third, *words = RECORDS[change]
        writer.raw("", info, third, *words)
    data = bytearray(writer.blob())
    if change in PATCHES:
        at, patch = PATCHES[change]
        data[at : at + len(patch)] = patch
    return bytes(data)


@pytest.mark.parametrize(
    ("change", "problem", "offset"),
    [
        ("magic", "not BTF", 0),
        ("version", "unknown version 9", 2),
        ("header length", "header length 8", 4),
        ("types too long", "type section", 8),
        ("strings too long", "string section", 16),
        ("strings not ended", "does not end with a zero byte", 25),
        ("unknown kind", "unknown type kind 31", 24),
        ("kind 0", "unknown type kind 0", 24),
        ("cut off", "record is cut off", 24),
        ("string offset", "string offset 4096", 24),
    ],
)
def test_malformed_btf_is_refused_with_the_offset(change: str, problem: str, offset: int) -> None:
    with pytest.raises(BtfError, match=problem) as caught:
        Btf.parse(malformed(change)).types(1)
    assert caught.value.offset == offset
    assert str(caught.value).endswith(f"at byte {offset}")


def test_types_in_a_circle_end_in_an_error() -> None:
    blob = BtfWriter()
    blob.typedef("a", 2)
    blob.typedef("b", 1)
    blob.array(3, 2)
    blob.struct("", 4, ("", 4, 0))
    btf = Btf.parse(blob.blob())
    own = btf.types(4)
    assert isinstance(own, Struct)
    for action in (
        lambda: btf.resolve(1),
        lambda: btf.size_of(3),
        lambda: btf.member_path(own, "x"),
        lambda: btf.member_names(own),
        lambda: btf.types(99),
        lambda: btf.types(-1),
    ):
        with pytest.raises(BtfError):
            action()
    assert btf.type_name(3).startswith("...")


def questions(data: bytes) -> Iterator[Callable[[], object]]:
    """Everything that can be asked of a BTF."""
    btf = Btf.parse(data)
    yield lambda: btf.enum_value("PLUS")
    yield btf.enumerators
    yield lambda: (btf.names(Struct), btf.names(Enum), btf.names(Func), btf.names(Typedef))
    yield lambda: (btf.find("point", Struct), btf.find("sign", Enum), btf.find("printk", Func))
    for type_id in range(btf.count + 2):
        yield lambda type_id=type_id: btf.type_name(type_id)  # type: ignore[misc]
        yield lambda type_id=type_id: btf.size_of(type_id)  # type: ignore[misc]
        yield lambda type_id=type_id: members(btf, type_id)  # type: ignore[misc]


def members(btf: Btf, type_id: int) -> None:
    found = btf.resolve(type_id)
    if isinstance(found, Struct | Union):
        btf.member_names(found)
        btf.member_path(found, "x")


@given(st.data())
def test_whatever_the_bytes_are_only_btf_error_comes_out(data: st.DataObject) -> None:
    blob = bytearray(every_kind()[0].blob())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(blob)), st.integers(0, len(blob))))
    with contextlib.suppress(BtfError):
        for question in questions(bytes(blob[:length])):
            with contextlib.suppress(BtfError):
                question()
