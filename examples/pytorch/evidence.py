"""Evidence for a PyTorch model, in the file that `compress` reads: evidence(model, loss_of, batches, "evidence.safetensors").

fisher_diag = mean over batches of g²; hessian_diag = mean over batches of N·ĝ², labels drawn from the model's own softmax
(unbiased for the diagonal of the Gauss–Newton matrix); gram = mean of x·xᵀ over the inputs x of every Linear.
`logits_of(batch)` gives logits [n, classes] and targets [n] of the positions that count.
"""

import torch
from safetensors.torch import save_file


def evidence(model, logits_of, batches, path, seed=1):
    draw = torch.Generator().manual_seed(seed)
    weights = dict(model.named_parameters())
    sums, positions, count = {}, {}, 0

    def add(name, value):
        sums[name] = sums.get(name, 0) + value.double()

    def see(name):
        def hook(module, inputs, output):
            x = inputs[0].detach().flatten(0, -2)
            add(f"{name}.weight.gram", x.T @ x)
            positions[name] = positions.get(name, 0) + len(x)
        return hook

    hooks = [m.register_forward_hook(see(n)) for n, m in model.named_modules() if type(m) is torch.nn.Linear]
    for batch in batches:
        logits, target = logits_of(batch)
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=draw)[:, 0]
        for kind, labels, factor in (("fisher_diag", target, 1), ("hessian_diag", drawn, len(target))):
            loss = torch.nn.functional.cross_entropy(logits, labels)
            grads = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
            for name, g in zip(weights, grads):
                add(f"{name}.{kind}", torch.zeros_like(weights[name]) if g is None else factor * g * g)
        count += 1
    for hook in hooks:
        hook.remove()
    for name in sums:
        sums[name] = (sums[name] / (positions[name[:-12]] if name.endswith(".gram") else count)).float().contiguous()
    save_file(sums, path, {"examples": str(count), "seed": str(seed)})
