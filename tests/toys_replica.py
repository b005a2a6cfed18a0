"""What `torch.nn.DataParallel` makes of a module on a further device, without one: `torch.nn.parallel.replicate` on the CPU."""

from torch import nn


def replica(module: nn.Module) -> nn.Module:
    """A replica whose tensors are copies made by an operation, as broadcasting makes them: no leaves, no parameters."""
    parts = list(module.modules())
    made = [part._replicate_for_data_parallel() for part in parts]
    place = {id(part): one for part, one in zip(parts, made, strict=True)}
    copies = {id(tensor): tensor * 1 for tensor in (*module.parameters(), *module.buffers())}
    for part, one in zip(parts, made, strict=True):
        one._former_parameters = {}
        for name, child in part._modules.items():
            if child is not None:
                setattr(one, name, place[id(child)])
        for name, weight in part._parameters.items():
            if weight is not None:
                setattr(one, name, copies[id(weight)])
                one._former_parameters[name] = copies[id(weight)]
        for name, buffer in part._buffers.items():
            one._buffers[name] = None if buffer is None else copies[id(buffer)]
    return made[0]
