"""The grammar of model names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_training.models.create import create
from star_training.models.names import Leaf, Wrapped, parse
from star_training.models.resolve import called, model_folder
from star_zoo import save_pretrained
from twins import repeatable, sized


def names() -> st.SearchStrategy:
    """Parsed names; a concat stands last in another, because it takes all that follows."""
    plain = st.sampled_from(["resnet18", "timm:vit", "hf-hub:me/mine@v1", "local-dir:none", "star_resnet10t.a", "x/y"])
    leaf = st.builds(Leaf, plain, st.booleans())
    settings = st.one_of(st.just({}), st.fixed_dictionaries({"views": st.integers(-9, 99)}))

    def averaged(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.builds(lambda s, m: Wrapped("averaged", s, (m,)), settings, inner) | st.builds(
            lambda s, m: Wrapped("heads", {"space": s}, (m,)), st.sampled_from(["all", "z_eq"]), inner
        )

    single = st.recursive(leaf, averaged, max_leaves=3)

    def larger(inner: st.SearchStrategy) -> st.SearchStrategy:
        first = st.lists(single, min_size=1, max_size=3)
        return averaged(inner) | st.builds(lambda a, last: Wrapped("concat", {}, (*a, last)), first, inner)

    return st.recursive(single, larger, max_leaves=4)


@repeatable
@given(names())
def test_a_name_is_read_as_it_is_written(model: Leaf | Wrapped):
    assert parse(str(model)) == model
    assert called(str(model)) == str(model)


@repeatable
@given(st.text("averagedconcat:+(),=8 untrained:é/", max_size=40))
def test_any_text_is_a_name_or_refused_in_one_line(text: str):
    try:
        parse(text)
    except ValueError as refused:
        assert "\n" not in str(refused)


def test_names_mean_what_the_grammar_says():
    a, b, c = map(Leaf, "abc")
    assert parse("averaged:a") == Wrapped("averaged", {}, (a,))
    assert parse("averaged( 4 ):a") == parse("averaged(views=4):a") == Wrapped("averaged", {"views": 4}, (a,))
    assert parse("averaged(4):concat:a+b") == Wrapped("averaged", {"views": 4}, (Wrapped("concat", {}, (a, b)),))
    assert parse("concat:averaged:a+b") == Wrapped("concat", {}, (Wrapped("averaged", {}, (a,)), b))
    assert parse("concat:a+concat:b+c") == Wrapped("concat", {}, (a, Wrapped("concat", {}, (b, c))))
    assert parse("concat:untrained:a+b") == Wrapped("concat", {}, (Leaf("a", untrained=True), b))
    assert parse("untrained:timm:a") == Leaf("timm:a", untrained=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("averaged(vews=3):a", "setting of averaged 'vews' not found; did you mean 'views'. known: views"),
        ("averaged(many):a", "averaged.views is 'many'; it must be a whole number"),
        ("averaged(views=2.5):a", "averaged.views is 2.5; it must be a whole number"),
        ("averaged(1,2):a", "has too many settings; known: views"),
        ("averaged(views=1,views=2):a", "has views twice"),
        ("concat(3):a+b", "has too many settings; known: none"),
        ("concat:a", "'concat:a' lacks a model; write concat:MODEL.MODEL"),
        ("concat:a+", "lacks a model"),
        ("averaged:", "'averaged:' lacks a model; write averaged:MODEL"),
        ("untrained:averaged:a", "untrained: stands before a single name, as in averaged:untrained:NAME"),
        (
            "averagd:untrained:test_resnet",
            "wrapper 'averagd' not found; did you mean 'averaged'. known: averaged",
        ),
        ("concat:untrained:test_resnet+pixels", "pixels are no model"),
        ("averaged:nosuchnet", "model 'nosuchnet' can't be loaded"),
        ("", "name is empty"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(text: str, message: str):
    with pytest.raises(ValueError, match=message) as refused:
        create(text)
    assert "\n" not in str(refused.value)


def test_a_path_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a+b", "averaged:x", "p:q+r"):
        save_pretrained(tmp_path / name / "export", sized())
        assert parse(name) == Leaf(name) and model_folder(name) == Path(name) / "export"
        assert called(f"untrained:{tmp_path / name}") == f"untrained:{name}"
    assert parse("concat:a+b+p:q+r+untrained:c").models == (Leaf("a+b"), Leaf("p:q+r"), Leaf("c", untrained=True))
    assert create("concat:a+b+averaged(2):p:q+r").num_features == 2 * sized().num_features
