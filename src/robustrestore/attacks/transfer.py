"""Transfer: attacked on one model, shown to another (Papernot, McDaniel and Goodfellow, 2016)."""

from dataclasses import replace as changed

from torch import Tensor, nn

from ..attack import Attack
from ..black_box import BlackBox, Oracle


class Transfer(BlackBox, nn.Module, name="transfer"):  # type: ignore[misc]  # the final __call__ is meant
    """Images that `attack` makes against `source`, shown once to the model (Papernot, McDaniel and Goodfellow, 2016).

    Of the clean and the attacked image the worse one for the model is kept, for two queries: with `queries=1` the attacked one
    is never shown, and more than two are not used. The source's answers have to mean what the model's do, the same classes
    above all. There the attack goes for the highest gain, even if the objective is judged: what only just fools the source
    fools nobody else. A module, so that it can be saved; `source` is handed back to `from_pretrained`.
    """

    def __init__(self, attack: Attack, source: nn.Module, queries: int = 2) -> None:
        nn.Module.__init__(self)
        if not isinstance(attack, Attack):
            raise TypeError(f"attack: expected an attack such as rr.attacks.PGD(...), got {attack!r}")
        if attack.mirrors:
            raise ValueError(f"attack: expected one that does harm, got {attack!r}, which does the opposite")
        if not isinstance(source, nn.Module):
            raise TypeError(f"source: expected a torch.nn.Module, got {type(source).__name__}: wrap a function in a module")
        super().__init__(attack.threat, queries)
        self.attack, self.source, self.answers = attack, source, attack.answers

    def hunt(self, oracle: Oracle, gain: Tensor) -> None:
        """One look at what was made on the source."""
        oracle.ask(self.attack(self.source, oracle.original, changed(oracle.objective, by_harm=False)))
