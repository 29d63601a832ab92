# %% [markdown]
# # flowlit in Python, without its commands
#
# A flow of handwritten digits is trained in a loop of one's own, made a generator, saved, loaded and looked
# at. Each `# %%` is a cell: open this file in VS Code, PyCharm or Spyder, in Jupyter through Jupytext, or
# run it: `python examples/python.py`. It takes a quarter of a minute on one core, and leaves
# `digits.safetensors`, `digits.png` and `between.png`.

# %% Data, a network, a loss
import torch

import flowlit
from flowlit.data import Digits, Pixels
from flowlit.networks import UNet
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Heun
from flowlit.types import Pair

torch.manual_seed(0)
digits = Digits()
images, labels = digits.data  # uint8 (1797, 1, 8, 8), int64 (1797,)
codec = Pixels()
x1 = codec.encode(images)  # float32 in [-1, 1]
network = UNet(
    resolution=8,
    in_channels=1,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attention_resolutions=(),
    dropout=0.0,
    num_classes=10,
)
network.class_names = digits.classes
objective = RectifiedFlow()

# %% A loop: time runs from noise (t = 0) to data (t = 1)
steps = 400
optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
for _ in range(steps):
    rows = torch.randint(len(x1), (64,))
    pair = Pair(torch.randn(64, 1, 8, 8), x1[rows], {"label": labels[rows]})
    loss = objective(network, pair)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
print(f"loss {float(loss.detach()):.2f}")

# %% A generator is a network, a solver and a codec; its file needs nothing else
flowlit.Generator(network, Heun(4), codec).save("digits.safetensors")
generator = flowlit.load("digits.safetensors")
print(generator)

# %% Ten of each class; the same image for the same seed, whatever else is generated with it
picture = generator.grid(100, columns=10, seed=7)
picture.save("digits.png")
picture

# %% Images as tensors, by seed, with classes by name
sevens = generator.sample(seeds=[1, 2, 3], labels="7")  # uint8 (3, 1, 8, 8)

# %% From seed to seed
between = flowlit.grid(generator.interpolate([1, 2, 3], steps=9, labels="3"), columns=17)
between.save("between.png")
between

# %% Gradients reach the noise: move it until the image is bright
noise = generator.noise([1]).requires_grad_()
brightness = generator.solve(noise, labels="0").x1.mean()
brightness.backward()
brighter = generator(noise + 20 * noise.grad, labels="0").float().mean() / 255
