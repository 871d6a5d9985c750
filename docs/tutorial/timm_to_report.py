# %% [markdown]
# # From a timm model to a report
#
# A network of timm, trained for a minute on scikit-learn's digits; a plan of sanitizers; an attacker who does not know of it,
# one who follows its gradients, and one who looks for a way; and one page that says what the plan bought. Open this file as a
# notebook (Jupytext, VS Code, PyCharm), or run it: `python docs/tutorial/timm_to_report.py`.

# %%
from pathlib import Path

import timm
import torch

import sanact
from sanact.data import load_data
from sanact.engine import run
from sanact.evaluation.cell import cells
from sanact.report.page import write_page
from sanact.report.tables import grid, results
from sanact.training import Recipe, train

# %% [markdown]
# Any `nn.Module` will do that takes images in [0, 1] and returns logits.

# %%
torch.manual_seed(0)
model = timm.create_model("resnet10t", num_classes=10, in_chans=1)
validation, images = load_data("digits", "train").split_off(200)
print(f"{train(model, images, validation=validation, recipe=Recipe(epochs=5, lr=0.05, batch_size=64)):.1f} % of 200 images")

# %% [markdown]
# A pattern chooses layers by name; `sanact layers` and `sanact.list_layers` show what there is to choose from.

# %%
plan = {"layer1.*": sanact.Mask(0.2, "max"), "layer2.*": sanact.MedianFilter(3)}
test = load_data("digits", "test").sample(20)
x = next(test.batches(20)).x
defended = sanact.sanitize(model, plan, example=x)
defended

# %% [markdown]
# What flows inside, before and after each sanitizer; and how far noise moves it, layer by layer.

# %%
recording = sanact.record(defended, x)
noisy = sanact.record(defended, (x + 0.1 * torch.randn_like(x)).clamp(0, 1))
print({layer: round(float(away.mean()), 3) for layer, away in sanact.distances(recording, noisy).items()})
recording

# %% [markdown]
# Every number is under the name of what the attacker knew. The last one counts.

# %%
knowledge = ("oblivious", "white-box", "adaptive")
judged = cells(test, model, "resnet10t", [None, plan], [sanact.PGD(eps=0.05)], knowledge, effort="quick")
found = results(run(judged, out="runs/tutorial"))
grid(found, "adaptive")

# %%
Path("report.html").write_text(write_page([Path("runs/tutorial")]), encoding="utf-8")
