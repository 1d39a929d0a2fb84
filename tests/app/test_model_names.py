"""Caps by patterns that match no model: they limit nothing, and the user is told."""

from pathlib import Path

from batcher.app.asked import asked_of, options_from
from batcher.app.model_names import idle_caps

KLING = "kling/kling-2-1/master/image-to-video"
FLUX = "blackforestlabs/flux-1/dev/text-to-image"


def warned(models=(KLING, FLUX), env=None, **typed):
    return list(idle_caps(options_from(asked_of(["m.csv"], typed, env or {})), models))


def test_a_cap_that_no_model_matches_is_named_as_it_is_typed_with_the_nearest_models():
    caps = {"klign/*": 4, "kling/*": 2, "*": 8}
    assert warned(concurrency=caps) == [
        (
            "--concurrency 'klign/*=4' limits nothing: no model of this manifest matches 'klign/*'; "
            f"its models are {KLING}, {FLUX}"
        )
    ]
    assert warned(concurrency={"Kling/*": 1}, models=[KLING]) == [
        (
            "--concurrency 'Kling/*=1' limits nothing: no model of this manifest matches 'Kling/*'; "
            f"its model is {KLING}"
        )
    ]


def test_of_many_models_only_the_nearest_are_named():
    models = [f"acme/{name}/v1" for name in ("alpha", "beta", "gamma", "delta", "zeta")]
    [line] = warned(models, concurrency={"acme/gama/*": 1})
    assert "its models are acme/gamma/v1, " in line
    assert line.endswith(" and 2 more")


def test_so_are_caps_on_spending():
    caps = {"day": 20.0, "day:fla:*": 5.0, "month:kling/*": 100.0}
    [line] = warned(max_cost_per=caps)
    assert line.startswith("--max-cost-per 'day:fla:*=5' limits nothing: no model of this manifest")


def test_caps_that_a_file_or_a_variable_gives_for_any_manifest_are_not_warned_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("batcher.toml").write_text('concurrency = {"fal:*" = 2}\n')
    env = {"BATCHER_MAX_COST_PER": "day:fal:*=5"}
    assert not warned(env=env, concurrency={"*": 4})
    [line] = warned(env=env, concurrency={"fal:*": 1})
    assert line.startswith("--concurrency 'fal:*=1' limits")
    Path("m.yaml").write_text(f"model: {KLING}\njobs: [a cat]\nrun: {{concurrency: {{'fal:*': 3}}}}\n")
    [line] = idle_caps(options_from(asked_of(["m.yaml"], {}, env)), [KLING])
    assert line.startswith("--concurrency 'fal:*=3' limits")
