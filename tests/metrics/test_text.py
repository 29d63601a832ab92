"""Images are compared with their prompts, by a classifier and by CLIP."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from evaluations import classifier, fid, run  # noqa: F401
from texts import Hashed, Reader

from flowlit.couplings import PromptedNoise
from flowlit.data import Pixels, Prompts
from flowlit.data.clip_vocabulary import write_tokenizer
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.metrics import ClassifierFeatures, CLIPImages, CLIPScore, PromptAccuracy
from flowlit.metrics.base import FeatureBatch, NumberedFeatures
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler


def batch(classes, index=None):
    logits = F.one_hot(torch.tensor(classes), 4).float()
    features = torch.zeros(len(classes), 2)
    return FeatureBatch(features, logits) if index is None else NumberedFeatures.of(features, logits, index)


def accuracy(classes, generated):
    return PromptAccuracy(classes)(generated, None)["prompt_accuracy"]


def test_accuracy_is_the_share_of_images_of_their_prompts_class():
    found = accuracy([0, 1, 2], batch([0, 1, 2, 0, 1, 2, 0, 3]))
    assert found.value == 7 / 8 and found.spread == pytest.approx((7 / 64 / 8) ** 0.5)
    assert accuracy([2, 0], batch([2, 0, 2, 1])).value == 3 / 4, "prompts may have any order"
    assert accuracy([0, 1, 2], batch([0, 2, 1], torch.tensor([3, 8, 10]))).value == 1, "numbers of samples"


def test_classes_that_there_are_not_are_refused():
    with pytest.raises(FlowlitError, match="a prompt has the class 4, but the classifier knows 4"):
        accuracy([0, 4], batch([0, 1]))
    with pytest.raises(FlowlitError, match="there are no classes; give that of each prompt"):
        PromptAccuracy([])


def test_a_folder_that_is_not_there_is_said_before_any_work(tmp_path):
    for thing in (CLIPImages(str(tmp_path / "no")), CLIPScore(str(tmp_path / "no"), Prompts(texts=["a"]))):
        assert "there is no folder" in thing.missing() and "PromptAccuracy" in thing.missing()
    with pytest.raises(FlowlitError, match="there is no folder"):
        CLIPScore(str(tmp_path / "no"), Prompts(texts=["a"])).check(10, None)
    with pytest.raises(FlowlitError, match="there is no folder"):
        CLIPImages(str(tmp_path / "no"))(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    if find_spec("transformers") is None or find_spec("open_clip") is None:
        pytest.skip("the extra text is not installed")
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 16, "patch_size": 8}
    tokens = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    torch.manual_seed(0)
    config = CLIPConfig(text_config={**text, **tokens}, vision_config=vision, projection_dim=8)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.slow
def test_the_score_is_the_cosine_that_transformers_has(clip):
    from transformers import CLIPModel, CLIPTokenizer

    images = (torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    texts = ["a red cat", "собака"]
    features = CLIPImages(str(clip))(images)
    score = CLIPScore(str(clip), Prompts(texts=texts))(FeatureBatch(features), None)["clip_score"]
    model = CLIPModel.from_pretrained(clip).eval()
    tokens = CLIPTokenizer.from_pretrained(clip)(texts, padding="max_length", return_tensors="pt")
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        stock = model(**tokens, pixel_values=(images.float() / 255 - mean) / std)
    similar = stock.logits_per_image / model.logit_scale.exp()
    expected = 100 * similar[torch.arange(5), torch.arange(5) % 2]
    assert score.value == pytest.approx(float(expected.mean()), abs=1e-3)
    assert score.spread == pytest.approx(float(expected.std() / 5**0.5), abs=1e-3)
    assert CLIPImages(str(clip))(images[:, :1]).shape == (5, 8)
    with pytest.raises(FlowlitError, match="images have 3 features and texts 8"):
        CLIPScore(str(clip), Prompts(texts=texts))(FeatureBatch(features[:, :3]), None)


def test_a_run_of_prompts_reports_the_accuracy_of_its_own_images(classifier, fid, tmp_path):
    prompts = Prompts(classes=[str(k) for k in range(10)])
    noise = PromptedNoise((1, 8, 8), 40, prompts, Hashed(), seed=2)
    model = FlowModule(Reader(), RectifiedFlow(), solvers={"euler1": Euler(1)})
    data = FlowDataModule(noise=noise, noise_batch_size=16)
    report = run(tmp_path, fid(measures=[PromptAccuracy(list(range(10)))]), module=model, data=data)
    network = Reader()
    network.text_encoder = Hashed().spec
    images = Generator(network, Euler(1), Pixels()).sample(40, seed=2, prompts=list(prompts.texts))
    logits = ClassifierFeatures(classifier, "tiny").extract(images).logits
    right = (logits.argmax(1) == torch.arange(40) % 10).double().mean()
    assert report["metrics"]["prompt_accuracy_tiny/euler1"] == pytest.approx(float(right))
    assert report["spread"]["prompt_accuracy_tiny/euler1"] == pytest.approx(
        float((right * (1 - right) / 40) ** 0.5)
    )
