"""Recipe, Batch, training(): what trains, what stays, what is missing."""

import pytest
import torch
from torch import Tensor, nn
from toys_training import classifier, colours, equal, state

import robustrestore as rr
from robustrestore.recipe import training


class Squares(rr.Recipe):
    """The mean square of the weights; `odd` gives a loss that is no number."""

    needs = ("images", "clean")

    def __init__(self, network: nn.Module, odd: bool = False) -> None:
        super().__init__()
        self.network, self.frozen, self.odd = network, nn.BatchNorm2d(3), odd

    @property
    def trained(self) -> nn.Module:
        return self.network

    def run(self, batch: rr.Batch) -> dict[str, Tensor]:
        total = torch.stack([weight.square().mean() for weight in self.network.parameters()])
        return {"loss": total if self.odd else total.mean()}


def test_batch_of_what_data_sets_yield() -> None:
    x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    assert rr.Batch.of((x, y)).target is y
    assert rr.Batch.of([x, y, x]).clean is x
    assert rr.Batch.of({"images": x, "clean": x}).given() == ("images", "clean")
    assert rr.Batch.of(x).given() == ("images",)
    with pytest.raises(ValueError, match="mapping with images"):
        rr.Batch.of({"image": x})
    with pytest.raises(ValueError, match="mapping with images"):
        rr.Batch.of({"images": x, "label": y})
    with pytest.raises(TypeError, match="got str"):
        rr.Batch.of("photo.png")
    with pytest.raises(ValueError, match="field target"):
        rr.Batch(x).truth()
    with pytest.raises(ValueError, match="field clean"):
        rr.Batch(x).intact()


def test_a_missing_field_is_named_and_so_is_a_loss_that_is_no_number() -> None:
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"missing clean"):
        Squares(nn.Conv2d(3, 3, 1))(rr.Batch(x, torch.zeros(2)))
    with pytest.raises(ValueError, match="scalar 'loss'"):
        Squares(nn.Conv2d(3, 3, 1), odd=True)(rr.Batch(x, clean=x))


def test_training_sets_modes_and_gradients_and_puts_them_back() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).requires_grad_(False).eval()
    recipe = Squares(network)
    recipe.frozen.train()
    with training(recipe) as weights:
        assert [id(w) for w in weights] == [id(w) for w in network.parameters()]
        assert all(w.requires_grad for w in network.parameters())
        assert network[1].training
        assert not recipe.frozen.training
        assert not any(w.requires_grad for w in recipe.frozen.parameters())
    assert not any(w.requires_grad for w in network.parameters())
    assert all(w.requires_grad for w in recipe.frozen.parameters())
    assert not network[1].training
    assert recipe.frozen.training
    with pytest.raises(ValueError, match="with parameters"), training(Squares(nn.ReLU())):
        pass


def test_a_part_of_a_model_is_trained_alone() -> None:
    network = classifier()
    before = state(network)
    recipe = rr.recipes.Plain(network, rr.tasks.Classification(), part="5")
    rr.fit(recipe, colours(), rr.Plan(steps=3, batch=6), quiet=True)
    changed = {name.split(".")[0] for name, tensor in state(network).items() if not torch.equal(tensor, before[name])}
    assert changed == {"5"}
    with pytest.raises(AttributeError, match="nine"):
        rr.recipes.Plain(network, rr.tasks.Classification(), part="nine")


def test_inner_attacks_leave_no_trace() -> None:
    """One step at learning rate 1e-12: the batch statistics moved once, as without any attack; nothing holds a gradient."""
    plain, attacked = classifier(), classifier()
    plan = rr.Plan(steps=1, batch=30, optimiser=rr.SGD(lr=1e-12), average=None)
    rr.fit(rr.recipes.Plain(plain, rr.tasks.Classification()), colours(), plan, quiet=True)
    zero = rr.attacks.PGD(rr.Linf(0.0), steps=3)
    rr.fit(rr.recipes.AdversarialTraining(attacked, rr.tasks.Classification(), zero), colours(), plan, quiet=True)
    assert equal(state(plain[1]), state(attacked[1]))
    assert int(attacked[1].num_batches_tracked) == 1


def test_clean_images_keep_the_contract_where_they_are_needed() -> None:
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"clean: expected values in \[0, 1\]"):
        Squares(nn.Conv2d(3, 3, 1))(rr.Batch(x, clean=255 * x))
    plain = rr.recipes.Plain(classifier(), rr.tasks.Classification())
    plain(rr.Batch(x, torch.tensor([0, 1]), clean=torch.tensor([7, 8])))  # not needed, not looked at


def test_a_trained_part_that_is_no_attribute_is_named() -> None:
    hidden = [nn.Conv2d(3, 3, 1)]
    elsewhere = type("Elsewhere", (Squares,), {"trained": property(lambda self: hidden[0])})
    with pytest.raises(ValueError, match="store it as an attribute"), training(elsewhere(nn.Conv2d(3, 3, 1))):
        pass
