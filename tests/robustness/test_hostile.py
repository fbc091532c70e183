"""Pages of every kind made from tokens, texts and words that are markup: nothing of it runs, all of it is shown as text."""

import json

import pytest
import torch
from robustness.workshop import TEXTS, finish

from mi_superposition.models import build_gpt2, save_hugging_face
from mi_superposition.stories.train import train_tokenizer

HOSTILE = [
    "</script><script>window.broken=1</script>",
    '"><img src=x onerror="window.broken=1">',
    "<!--",
    "]]></style><style>body{display:none}</style>",
    "\u2028window.broken=1\u2029",
    "\u202egnp.exe",
    "\x00\x01\x1b[31m",
    "{{ 7 * 7 }}{% raw %}",
    "${window.broken=1}`",
    "<a href='javascript:window.broken=1'>x</a>",
    "&lt;script&gt;&#60;",
    "😀\U0001f468\u200d\U0001f469",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Sites of all commands that read texts, of a model some of whose tokens are markup."""
    root = tmp_path_factory.mktemp("hostile")
    tokenizer = train_tokenizer([*TEXTS, *HOSTILE * 20], 400)
    tokenizer.add_tokens([token for token in HOSTILE if "\x00" not in token])
    sizes = dict(d_vocab=len(tokenizer), n_ctx=64, d_model=16, d_mlp=12, n_layers=2, n_heads=2)
    model = build_gpt2(**sizes, dropout=0.0, end_token=0, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    save_hugging_face(model, tokenizer, root / "model")
    texts = [
        f"{text} {HOSTILE[n % len(HOSTILE)]} said {HOSTILE[n // 7 % len(HOSTILE)]}. The end."
        for n, text in enumerate(TEXTS)
    ]
    (root / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    lists = {
        HOSTILE[0]: ["cat", "dog", "fox", "owl"],
        HOSTILE[1]: ["happy", "sad", "glad", "angry"],
        "<b>": ["cake", "fish", "bread", "soup"],
    }
    (root / "lists.json").write_text(json.dumps(lists))
    reads = ["--model", root / "model", "--corpus", root / "texts.jsonl"]
    hook = "blocks.1.hook_resid_pre"
    requests = {
        "order": ["neurons", "order", "--model", root / "model", "--controls", 3, "--seconds", 0.02],
        "scan": ["neurons", "scan", *reads, "--threads", 1],
        "pages": ["neurons", "pages", "--scan", root / "scan"],
        "pages-together": ["neurons", "pages", "--scan", root / "scan", "--layout", "together"],
        "sae": ["sae", "train", *reads, "--hook", hook, "--d-sae", 12, "--k", 4, "--tokens", 4_000, "--batch-size", 128, "--buffer-batches", 4],
        "evaluation": ["sae", "evaluate", "--sae", root / "sae", "--corpus", root / "texts.jsonl"],
        "features": ["neurons", "scan", *reads, "--sae", root / "sae", "--threads", 1],
        "feature-pages": ["neurons", "pages", "--scan", root / "features"],
        "spectra": ["spectra", "--model", root / "model", "--corpus", root / "texts.jsonl"],
        "concepts": ["concepts", *reads, "--labels", "none", "--concepts", root / "lists.json", "--sae", root / "sae",
                     "--random-lists", 3, "--random-probes", 1, "--permutations", 20],
    }  # fmt: skip
    for name, words in requests.items():
        code, _, error = finish([*map(str, words), "--out", str(root / name)])
        assert code == 0, (name, error[-2000:])
    return root


@pytest.mark.browser
def test_no_page_runs_what_a_token_says(hostile, browser, counts):
    pages = [path for path in sorted(hostile.rglob("*.html")) if "said" not in path.name]
    assert len(pages) > 45
    page = browser.new_page(bypass_csp=True)
    problems, requests, dialogs = [], [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    shown = 0
    for path in pages:
        page.goto(path.as_uri())
        page.wait_for_function("document.querySelector('main[aria-busy=true]') === null")
        # Figures draw their words when they come into view.
        page.evaluate("document.querySelectorAll('[data-figure]').forEach((figure) => figure.scrollIntoView())")
        assert page.evaluate("window.broken") is None, path
        assert page.evaluate("getComputedStyle(document.body).display") != "none", path
        assert page.locator("main img[src=x], main a[href^=javascript]").count() == 0, path
        shown += "window.broken=1" in page.inner_text("main")
    assert shown > 20
    assert problems == []
    assert dialogs == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    # What is typed into the searches is text too.
    for site in (hostile / "pages", hostile / "pages-together", hostile / "feature-pages"):
        page.goto((site / "index.html").as_uri())
        for text in HOSTILE[:2]:
            page.fill("#search", text)
            page.wait_for_function("document.getElementById('found').textContent !== ''")
    page.goto((hostile / "concepts" / "page" / "index.html").as_uri())
    page.fill("#find", "<b>")
    page.wait_for_function("document.getElementById('found').textContent !== ''")
    assert page.evaluate("window.broken") is None
    assert problems == []
    page.close()
    counts["pages with hostile tokens"] += len(pages)
