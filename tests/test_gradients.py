"""Two gradients, their Gramian and variances against one float64 backward per response and objective.

On the GPU where there is one, as on the CPU.
"""

import itertools
import textwrap
from collections.abc import Callable

import pytest
import torch
from brute_force import ARCHITECTURES, BETA, G, N, P, T, agree, batch, brute, collect, layers, losses
from conftest import DEVICE, KeepDouble
from torch import nn

import pcr_run.gradients
from pcr_run.gradients import moments, norms
from pcr_run.gradients import two as gradients
from pcr_run.gradients.cut import CannotCutError, Cut
from pcr_run.gradients.groups import select
from pcr_run.gradients.moments import grouped
from pcr_run.gradients.norms import row_squares, sum_of_rows, token_gram, weight_gradient
from pcr_run.gradients.two import Cotangents, TwoGradients
from pcr_run.model.policy import disable_dropout
from pcr_run.ragged import Ragged
from pcr_run.resolver import make

pytestmark = pytest.mark.usefixtures("float64_throughout")


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return ARCHITECTURES[request.param]()


@pytest.fixture(scope="module")
def truth(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of all parameters; no test changes the weights."""
    with KeepDouble():
        return brute(model, select(model, "all"))


@pytest.mark.parametrize("engine", ["portable", "twin", "twin, recomputed"])
@pytest.mark.parametrize("unit", ["response", "query", "microbatch"])
@pytest.mark.parametrize("modules", ["mlp", "attention", "all"])
def test_means_gramian_and_variances_equal_one_backward_per_response(
    model: nn.Module, truth: dict[str, torch.Tensor], modules: str, unit: str, engine: str
) -> None:
    names = select(model, modules)
    one = TwoGradients(model, names, rows=N, group=G, unit=unit, microbatch=G).max_microbatch
    cut = {} if engine == "portable" else {"layers": layers(model), "recompute": "recomputed" in engine}
    assert engine == "portable" or len(cut["layers"]) == 2
    agree(collect(model, names, [min(one, G)] * (N // min(one, G)), unit, **cut), truth, unit)


@pytest.mark.parametrize("unit", ["response", "query"])
def test_neither_microbatches_nor_padding_change_the_table(model: nn.Module, unit: str) -> None:
    names = select(model, "mlp")
    fixed = TwoGradients(model, names, rows=N, group=G, unit=unit).max_microbatch
    whole = collect(model, names, [min(N, fixed)] * (N // min(N, fixed)), unit).table()
    for sizes, pad in (([1] * N, 0), ([G] * P, 4), ([N], 2)):
        if sizes[0] > fixed:
            continue
        again = collect(model, names, sizes, unit, pad).table()
        for column in ("pp", "ps", "ss", "var_pla", "var_sta"):
            torch.testing.assert_close(getattr(again, column), getattr(whole, column), rtol=1e-9, atol=1e-24)


@pytest.mark.parametrize("engine", ["portable", "twin"])
def test_other_parameters_get_the_gradient_of_the_sum(model: nn.Module, engine: str) -> None:
    names = select(model, "mlp")
    size = min(G, TwoGradients(model, names, rows=N, group=G).max_microbatch)
    collect(model, names, [size] * (N // size), "response", layers=layers(model) if engine == "twin" else ())
    others = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert not set(others) & set(names)
    model.zero_grad()
    pla, sta = losses(model, *batch())
    (pla + BETA * sta).backward()
    for name, parameter in model.named_parameters():
        if name not in names and parameter.grad is not None:
            torch.testing.assert_close(others[name], parameter.grad, rtol=1e-9, atol=1e-14)


def test_the_plain_sum_resolves_to_an_ordinary_backward(model: nn.Module) -> None:
    names = select(model, "all")
    two = collect(model, names, [1] * N, "response")
    two.resolve(make("fixed", alpha=0.0), BETA)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    pla, sta = losses(model, *batch())
    (pla + BETA * sta).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-14)


def test_activation_checkpointing_changes_nothing() -> None:
    model = ARCHITECTURES["gpt2"]()
    names = select(model, "mlp")
    plain = collect(model, names, [G] * P, "response").table()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    disable_dropout(model)
    model.train()
    again = collect(model, names, [G] * P, "response").table()
    for column in ("pp", "ps", "ss", "var_pla", "var_sta"):
        torch.testing.assert_close(getattr(again, column), getattr(plain, column), rtol=1e-12, atol=0)


def test_identical_responses_have_no_variance() -> None:
    model = ARCHITECTURES["qwen2_tied"]()
    names = select(model, "mlp")
    ids, pla, sta = (x[:1].expand(N, -1) for x in batch())
    with TwoGradients(model, names, rows=N, group=G) as two:
        two.backward(*losses(model, ids, pla, sta), BETA, N)
    table = two.table()
    assert (table.var_pla <= 1e-12 * table.pp).all()
    assert (table.pp > 0).all()


def test_a_group_of_tensors_has_their_sums() -> None:
    model = ARCHITECTURES["gpt2"]()
    names = select(model, "mlp")
    table = collect(model, names, [G] * P, "response").table()
    groups, _, layers = grouped(names, table, "layer")
    assert groups == ["layers.0.mlp", "layers.1.mlp"]
    first = [k for k, name in enumerate(names) if ".h.0." in name]
    assert layers.ps[0] == pytest.approx(table.ps[first].sum().item(), rel=1e-12)


def test_only_the_acting_parameters_are_resolved() -> None:
    model = ARCHITECTURES["llama"]()
    names = select(model, "all")
    two = collect(model, names, [1] * N, "response")
    acting = set(select(model, "mlp"))
    pla = {name: gradient.clone() for name, gradient in two.plasticity().items()}
    resolution = two.resolve(
        lambda table, beta: (torch.zeros_like(table.pp), torch.ones_like(table.pp)), BETA, acting=acting
    )
    for k, (name, parameter) in enumerate(model.named_parameters()):
        a, b = (0.0, 1.0) if name in acting else (1.0, BETA)
        assert (resolution.a[k].item(), resolution.b[k].item()) == (a, b)
        torch.testing.assert_close(parameter.grad, a * pla[name] + b * two.stability()[name])


def test_the_example_of_the_module_runs() -> None:
    text = pcr_run.gradients.__doc__.split("::\n\n")[1].split("\n\nParameters outside")[0]
    model = ARCHITECTURES["qwen2_tied"]()
    ids, pla, sta = batch()
    scope = {
        "model": model,
        "batch": torch.cat([ids, ids[:2]]),
        "my_losses": lambda model, ids: losses(model, ids, *next(coefficients)),
        "optimizer": torch.optim.AdamW(model.parameters()),
        **vars(gradients),
        "select": select,
        "make": make,
    }
    coefficients = iter(zip(*(torch.cat([x, x[:2]]).split(4) for x in (pla, sta)), strict=True))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    exec(textwrap.dedent(text), scope)
    assert all(not p.equal(before[name]) for name, p in model.named_parameters())


def test_a_missing_microbatch_is_noticed() -> None:
    model = ARCHITECTURES["llama"]()
    ids, pla, sta = (x[:G] for x in batch())
    with TwoGradients(model, select(model, "mlp"), rows=N, group=G) as two:
        two.backward(*losses(model, ids, pla, sta), BETA, G)
    with pytest.raises(ValueError, match="6 rows, but 3 came"):
        two.table()


@pytest.mark.parametrize(("rows", "group", "unit"), [(4, 1, "response"), (4, 4, "query"), (4, 4, "microbatch")])
def test_a_unit_with_nothing_to_compare_is_refused(rows: int, group: int, unit: str) -> None:
    model = ARCHITECTURES["llama"]()
    with pytest.raises(ValueError, match="nothing to compare"):
        TwoGradients(model, select(model, "mlp"), rows=rows, group=group, unit=unit)


def test_ghost_norms_equal_those_of_the_products() -> None:
    x, b = torch.randn(4, 5, 3, dtype=torch.float64), torch.randn(4, 5, 6, dtype=torch.float64)
    products = torch.stack([weight_gradient(x[i : i + 1], b[i : i + 1], False).square().sum() for i in range(4)])
    torch.testing.assert_close(row_squares(token_gram(x), b), products)


@pytest.mark.parametrize("shape", [(3, 12_288), (1_000, 1_000), (48_640,), (4_864, 896)])
@pytest.mark.parametrize("make", [torch.ones, torch.randn])
def test_squared_norms_are_as_exact_as_inner_products(
    shape: tuple[int, ...], make: Callable[..., torch.Tensor]
) -> None:
    x = 0.1 * make(shape, device=DEVICE)
    expected = x.double().square().sum()
    assert abs(moments.square(x) - expected) <= 1e-6 * expected
    assert abs(moments.square(x.to(torch.bfloat16)) - expected) <= 1e-2 * expected


@pytest.mark.parametrize("slack", [0.0, 1.0, 100.0])
def test_norms_from_grams_do_not_depend_on_which_rows_are_padded_together(
    slack: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "SLACK", {DEVICE.type: slack})
    rows = Ragged((2, 17, 4, 5, 5, 1), DEVICE)
    x, b, again = (torch.randn(34, n, dtype=torch.float64, device=DEVICE) for n in (3, 6, 6))
    short = norms.ShortRows(x, rows)
    assert len(short.blocks) == {0.0: 5, 1.0: 2, 100.0: 1}[slack]
    for each in (b, again):  # the same Grams of the inputs for both objectives
        products = [(each[s].T @ x[s]).square().sum() for s in map(slice, rows.borders[:-1], rows.borders[1:])]
        torch.testing.assert_close(short.squares(each), torch.stack(products).sum())


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_products_formed_together_give_the_same_sums(transposed: bool) -> None:
    x, b = (torch.randn(5, 4, n, dtype=torch.float64, device=DEVICE) for n in (3, 6))
    x, b, rows = x.flatten(0, 1), b.flatten(0, 1), Ragged((2, 7, 4, 4, 3), DEVICE)
    total, squares = sum_of_rows(x, b, rows, transposed, at_once=1)
    torch.testing.assert_close(total, weight_gradient(x, b, transposed))
    for at_once in (2, 5, 9):
        again = sum_of_rows(x, b, rows, transposed, at_once)
        torch.testing.assert_close(again, (total, squares), rtol=1e-12, atol=1e-13)


def test_long_rows_give_the_same_norms_as_short_ones() -> None:
    """Past the ghost threshold each row's product is formed; the same batch padded past it must agree."""
    model = ARCHITECTURES["gpt_neox"]()
    names = select(model, "mlp")
    short = collect(model, names, [G] * P, "response").table()
    long = collect(model, names, [G] * P, "response", pad=40).table()
    torch.testing.assert_close(long.var_pla, short.var_pla, rtol=1e-9, atol=0)
    torch.testing.assert_close(long.var_sta, short.var_sta, rtol=1e-9, atol=0)


@pytest.mark.parametrize("frozen", ["embed_tokens", "self_attn"])
def test_frozen_parameters_elsewhere_do_not_matter(frozen: str) -> None:
    model = ARCHITECTURES["llama"]()
    names = select(model, "mlp")
    before = collect(model, names, [G] * P, "response").table()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    after = collect(model, names, [G] * P, "response").table()
    torch.testing.assert_close(after.pp, before.pp)
    torch.testing.assert_close(after.var_sta, before.var_sta)


def test_where_g_pla_is_zero_one_cotangent_gives_both(model: nn.Module) -> None:
    """What ``head`` says of microbatches without a reward signal, in both engines, for beta above 0 and for 0."""
    names = select(model, "mlp")
    ids, _, sta = batch()
    size = min(G, TwoGradients(model, names, rows=N, group=G).max_microbatch)
    for beta, cut in itertools.product((BETA, 0.0), ((), layers(model))):
        tables, plain = [], []
        for short in (False, True):
            model.zero_grad()
            with TwoGradients(model, names, rows=N, group=G, layers=cut) as two:
                for i, s in zip(ids.split(size), sta.split(size), strict=True):
                    found = Cotangents(None if short else beta * s[..., None], s[..., None])
                    two.add(
                        lambda i=i: model(input_ids=i, use_cache=False).logits[:, :-1, 5:6],
                        lambda _, found=found: found,
                        beta,
                        Ragged((T,) * len(i), DEVICE),
                    )
            tables.append(two.table())
            two.resolve(make("none"), beta)
            plain.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert (tables[1].ss > 0).any()
        for column in ("ss", "var_sta"):
            torch.testing.assert_close(getattr(tables[1], column), getattr(tables[0], column), rtol=1e-9, atol=1e-24)
        for column in ("pp", "ps", "var_pla"):  # rounding in the long way, exactly 0 in the short one
            assert (getattr(tables[0], column).abs() <= 1e-15 * tables[0].ss).all()
            assert (getattr(tables[1], column).abs() <= 1e-15 * tables[0].ss).all()
        assert plain[0].keys() == plain[1].keys()
        for name, gradient in plain[0].items():
            torch.testing.assert_close(plain[1][name], gradient, rtol=1e-9, atol=1e-14)


def test_a_stream_beside_the_hidden_states_is_noticed() -> None:
    """Embeddings that enter every layer carry gradients around the borders: such a model is not cut."""

    model = ARCHITECTURES["llama"]()
    assert len(layers(model)) == 2
    shared = nn.Embedding(1, 16, dtype=torch.float64).to(DEVICE)
    model.model.extra = shared
    inner = model.model.layers[0].forward
    model.model.layers[0].forward = lambda h, **kwargs: inner(h, **kwargs) + shared.weight[0]
    assert len(layers(model)) == 2  # a parameter of its own is no stream
    stream = []
    embed = model.model.embed_tokens.register_forward_hook(lambda _m, _a, out: stream.append(out))
    outer = model.model.layers[1].forward
    model.model.layers[1].forward = lambda h, **kwargs: outer(h, **kwargs) + stream[-1]
    assert layers(model) == []
    embed.remove()


def test_other_inputs_that_record_are_refused() -> None:
    model = ARCHITECTURES["llama"]()
    layer = model.model.layers[0]
    hidden = torch.zeros(1, 2, 16, dtype=torch.float64, device=DEVICE, requires_grad=True)
    with Cut([layer]), pytest.raises(CannotCutError, match="more than hidden states"):
        layer(hidden, position_embeddings=(hidden, hidden))


def test_a_cut_leaves_the_model_as_it_was() -> None:
    model = ARCHITECTURES["gpt2"]()
    before = [vars(layer).get("forward") for layer in model.transformer.h]
    found = layers(model)
    assert [vars(layer).get("forward") for layer in found] == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_weights_of_taps_record_again_afterwards() -> None:
    model = ARCHITECTURES["llama"]()
    collect(model, select(model, "mlp"), [G] * P, "response", layers=layers(model))
    assert all(p.requires_grad for p in model.parameters())
