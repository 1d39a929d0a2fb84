"""Files as they are found in the wild: each loads with at most one option, or one offered command."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from batcher.errors import ManifestError
from batcher.jobs.column_rules import Mapped
from batcher.manifest.remedy import remedy_of
from batcher.options.facts import Reading
from batcher.sandbox.catalogue import catalogue
from batcher.schema.problems import unknown_field
from batcher.schema.spec import ModelSpec
from tests.support.manifest_files import read, read_text

MODEL = "bytedance/seedream-4/text-to-image"
SPECS = {MODEL: ModelSpec.from_catalogue(catalogue()[MODEL].listing(include_schema=True))}
CAT, DOG = "a cat, asleep", "a dog; awake"

WILD = {
    "parti.tsv": f"Prompt\tCategory\tChallenge\tNote\n{CAT}\tAnimals\tBasic\t\n{DOG}\tAnimals\tBasic\tx\n",
    "drawbench.csv": f'Prompts,Category\n"{CAT}",Colors\n{DOG},Colors\n',
    "geneval.jsonl": f'{{"tag":"two","include":[{{"class":"cat","count":1}}],"prompt":"{CAT}"}}\n'
    f'{{"tag":"one","include":[{{"class":"dog","color":["red"]}}],"prompt":"{DOG}"}}\n',
    "vbench.json": f'[{{"prompt_en":"{CAT}","dimension":["a"]}},{{"prompt_en":"{DOG}","dimension":["b"]}}]',
    "coco.json": '{"info":{"year":2014},"images":[{"id":9,"file_name":"9.jpg"}],"annotations":'
    f'[{{"image_id":9,"id":1,"caption":"{CAT}"}},{{"image_id":9,"id":2,"caption":"{DOG}"}}]}}',
    "styles.csv": f'\ufeffname,prompt,negative_prompt\none,"{CAT}","blurry, ""soft"""\ntwo,"{DOG}",\n',
    "midjourney.txt": f"{CAT}\n\n{DOG}\n",
    "lexica.json": f'{{"images":[{{"id":"a1","prompt":"{CAT}"}},{{"id":"b2","prompt":"{DOG}"}}]}}',
    "openai.jsonl": "".join(
        f'{{"custom_id":"r-{n}","method":"POST","url":"/v1/images","body":{{"prompt":"{text}"}}}}\n'
        for n, text in enumerate((CAT, DOG))
    ),
    "metadata.csv": f'file_name,text\n1.png,"{CAT}"\n2.png,{DOG}\n',
    "excel.csv": f'Prompt;Größe\r\n"{CAT}";1\r\n"{DOG}";2\r\n'.encode("cp1252"),
    "gb.csv": f'prompt,备注\n"{CAT}",这是一个测试的句子\n{DOG},我们都是中国人\n'.encode("gb18030"),
    "sjis.csv": f'prompt,メモ\n"{CAT}",これはテストです\n{DOG},ねこといぬ\n'.encode("cp932"),
    "title.csv": f'Prompts for the shoot,\nprompt,notes\n"{CAT}",a\n{DOG},b\n',
    "numbered.txt": f"1. {CAT}\n2. {DOG}\n",
    "list.md": f"- {CAT}\n- {DOG}\n",
    "prompts.json": f'{{"prompts":["{CAT}","{DOG}"]}}',
    "strings.yaml": f"- {CAT}\n- {DOG}\n",
    "pandas.csv": f',prompt\n0,"{CAT}"\n1,{DOG}\n',
    "ragged.csv": f'prompt,note,more\n"{CAT}",a\n{DOG},b,c\n',
    "english.csv": f'Prompt (EN),image path,seed#\n"{CAT}",a b,1\n{DOG},c d,2\n',
    "joined.csv": f'\ufeffprompt\n"{CAT}"\n\ufeff{DOG}\n',
    "twice.csv": f'\ufeff\ufeffprompt\n"{CAT}"\n{DOG}\n',
}
ONE_OPTION = {
    "coco.json": {"reading": Reading(format="json:annotations")},
    "excel.csv": {"reading": Reading(encoding="cp1252")},
    "gb.csv": {"reading": Reading(encoding="gb18030")},
    "sjis.csv": {"reading": Reading(encoding="cp932")},
    "list.md": {"reading": Reading(format="txt")},
    "pandas.csv": {"columns": Mapped(ignore=("",))},
}


@pytest.mark.parametrize("name", WILD)
def test_a_file_from_the_wild_loads_with_one_option_or_one_offered_command(tmp_path, name):
    options = ONE_OPTION.get(name, {})
    if (reading := options.get("reading")) is not None:
        word = reading.encoding or reading.format
        with pytest.raises(ManifestError, match=f"--(encoding|format) {word}"):
            read_text(tmp_path, name, WILD[name], SPECS, model=MODEL)
    found = read_text(tmp_path, name, WILD[name], SPECS, model=MODEL, **options)
    if found.problems:
        remedy = remedy_of(found.tally.unfit, SPECS)
        assert remedy is not None, found.problems
        columns = Mapped(rename=tuple(remedy.rename.items()), meta=remedy.meta)
        found = read_text(tmp_path, name, WILD[name], SPECS, model=MODEL, columns=columns, **options)
    assert (found.problems, [job.input["prompt"] for job in found.jobs]) == ([], [CAT, DOG])


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            Mapped(rename=(("captoin", "prompt"),)),
            "no column is called 'captoin'; the nearest is 'caption'",
        ),
        (Mapped(vars=("Styel",)), "no column is called 'Styel'; the nearest is 'style'"),
        (Mapped(ignore=("#9",)), "no column is called '#9'"),
        (Mapped(meta=("zzz",)), "no column is called 'zzz'"),
    ],
)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "prompt,caption,style\na,b,c\n"),
        ("m.jsonl", '{"prompt":"a","caption":"b","style":"c"}\n'),
    ],
)
def test_a_named_column_that_no_file_has_is_a_problem(tmp_path, name, content, columns, told):
    columns = replace(columns, meta=(*columns.meta, "*"))
    found = read_text(tmp_path, name, content, SPECS, model=MODEL, columns=columns)
    assert found.problems == [f"{name}: {told}"]


@pytest.mark.parametrize(
    ("cell", "value"), [("0,5", 0.5), ("0,125", 0.125), ("1,500", None), ("1,5,5", None)]
)
def test_a_decimal_comma_is_read_if_it_can_be_nothing_else(tmp_path, cell, value):
    table = f"prompt;image_url;cfg_scale\na;https://example.com/a.png;{cell}\n"
    found = read_text(tmp_path, "m.csv", table)
    assert [job.input["cfg_scale"] for job in found.jobs] == ([] if value is None else [value])


def test_a_pipe_that_a_shell_opens_is_read_and_one_with_a_name_is_refused(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"prompt\na cat\n")
    os.close(writer)
    try:
        found = read(Path(f"/dev/fd/{reader}"), SPECS, model=MODEL)
    finally:
        os.close(reader)
    assert [job.input["prompt"] for job in found.jobs] == ["a cat"]
    os.mkfifo(tmp_path / "p.csv")
    with pytest.raises(ManifestError, match="a pipe; read it as standard input: batcher plan - < "):
        read(tmp_path / "p.csv", SPECS, model=MODEL)


def test_a_text_is_no_list_if_one_line_has_no_mark(tmp_path):
    found = read_text(tmp_path, "a.txt", "1. a cat\n2 dogs\n", SPECS, model=MODEL)
    assert [job.input["prompt"] for job in found.jobs] == ["1. a cat", "2 dogs"]


def test_no_far_fetched_name_is_offered():
    assert unknown_field("caption", ["duration", "prompt"]) == "unknown field"
    assert unknown_field("promt", ["duration", "prompt"]) == "unknown field, did you mean prompt?"
