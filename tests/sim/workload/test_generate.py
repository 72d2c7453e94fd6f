"""Synthetic workloads: rates, spreads, streams, and the shipped tables against the traces they were fitted from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError, UnknownName
from sim.workload import fit_quantiles
from sim.workload.arrivals import Bursty, Constant, Gamma, Offline, Poisson, arrivals_named
from sim.workload.generate import closed_loop, named_workload, shared_prefix, streams, synthetic
from sim.workload.lengths import Fixed, Lognormal, Quantiles, RangeRatio, quantile_names
from sim.workload.traces import read_trace
from tests.data import shared

N = 40_000
PROCESSES = st.sampled_from([Poisson(3.0), Gamma(3.0, 4.0), Bursty(3.0, 5.0), Constant(3.0), Offline()])


def gaps_s(process, n=N, seed=0):
    return np.diff(process(n, np.random.default_rng(seed))) / 1e9


@given(PROCESSES, st.integers(1, 300), st.integers(0, 2**32))
def test_arrivals_start_at_zero_and_never_go_back(process, n, seed):
    times = process(n, np.random.default_rng(seed))
    assert times.shape == (n,)
    assert times.dtype == np.int64
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize(("process", "cv"), [(Poisson(7.0), 1.0), (Gamma(7.0, 0.4), 0.4), (Gamma(7.0, 2.5), 2.5)])
def test_renewal_arrivals_have_their_rate_and_spread(process, cv):
    gaps = gaps_s(process)
    assert gaps.mean() == pytest.approx(1 / 7, abs=4 * cv / 7 / np.sqrt(N))  # four standard errors
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_a_burst_runs_at_its_peak_and_the_whole_at_its_mean():
    qps, peak, burst_s = 50.0, 4.0, 2.0
    gaps = gaps_s(Bursty(qps, peak, burst_s))
    variance = 2 * burst_s * (peak - 1) ** 2 / (peak * qps)  # of the silences, which dominate
    assert gaps.mean() == pytest.approx(1 / qps, abs=4 * np.sqrt(variance / N) + 4 / qps / np.sqrt(N))
    assert np.median(gaps) == pytest.approx(np.log(2) / (peak * qps), rel=0.05)
    assert gaps.std() / gaps.mean() > 3


def test_constant_arrivals_do_not_drift():
    times = Constant(3.0)(3_000_001, np.random.default_rng(0))
    assert times[-1] == 1_000_000 * 10**9


def test_peak_one_is_poisson():
    assert np.array_equal(gaps_s(Bursty(2.0, 1.0)), gaps_s(Poisson(2.0)))


@given(st.integers(1, 4000), st.floats(0, 0.99), st.integers(0, 1000))
def test_range_ratio_stays_in_its_range(tokens, ratio, seed):
    drawn = RangeRatio(tokens, ratio)(200, np.random.default_rng(seed))
    assert drawn.min() >= max(1, np.floor(tokens * (1 - ratio)))
    assert drawn.max() <= np.ceil(tokens * (1 + ratio))


def test_range_ratio_reaches_both_ends():
    drawn = RangeRatio(10, 0.5)(2000, np.random.default_rng(0))
    assert set(drawn) == set(range(5, 16))


def test_lognormal_has_its_median_and_mean():
    drawn = Lognormal(500, 0.8)(N, np.random.default_rng(1))
    assert np.median(drawn) == pytest.approx(500, rel=0.03)
    assert drawn.mean() == pytest.approx(500 * np.exp(0.32), rel=0.03)
    assert Lognormal(1, 3)(N, np.random.default_rng(1)).min() >= 1


def columns(w):
    return {k: getattr(w, k).tobytes() for k in ("arrival_ns", "prompt_tokens", "output_tokens")}


@given(st.integers(0, 2**40))
def test_same_seed_same_columns_and_other_lengths_leave_arrivals_alone(seed):
    base = {"requests": 50, "arrivals": Poisson(2.0), "outputs": Lognormal(50, 1.0), "seed": seed}
    one = columns(synthetic(prompts=Lognormal(300, 1.0), **base))
    same = columns(synthetic(prompts=Lognormal(300, 1.0), **base))
    other = columns(synthetic(prompts=RangeRatio(9, 0.5), **base))
    assert one == same
    assert one["arrival_ns"] == other["arrival_ns"]
    assert one["output_tokens"] == other["output_tokens"]
    assert one["prompt_tokens"] != other["prompt_tokens"]
    assert one != columns(synthetic(prompts=Lognormal(300, 1.0), **(base | {"seed": seed + 1})))


@given(st.integers(0, 2**40))
def test_other_arrivals_leave_lengths_alone(seed):
    base = {"requests": 50, "prompts": Lognormal(300, 1.0), "outputs": Lognormal(50, 1.0), "seed": seed}
    one, other = (columns(synthetic(arrivals=process, **base)) for process in (Poisson(2.0), Gamma(2.0, 3.0)))
    assert one["arrival_ns"] != other["arrival_ns"]
    assert one["prompt_tokens"] == other["prompt_tokens"]
    assert one["output_tokens"] == other["output_tokens"]


def test_streams_of_a_seed_differ():
    drawn = [tuple(rng.random(4)) for rng in vars(streams(5)).values()]
    assert len(set(drawn)) == 4


def test_closed_loop_waits_at_zero():
    w = closed_loop(requests=20, concurrency=4, prompts=Fixed(100), outputs=Fixed(10))
    assert w.concurrency == 4
    assert not w.arrival_ns.any()


@given(st.integers(1, 5), st.integers(0, 100), st.integers(1, 40), st.integers(0, 99))
def test_shared_prefix_shares_whole_prefix_blocks_and_nothing_else(groups, prefix, block, seed):
    w = shared_prefix(
        requests=12, arrivals=Poisson(1.0), groups=groups, prefix_tokens=prefix, suffixes=RangeRatio(30, 0.9),
        outputs=Fixed(3), block_tokens=block, seed=seed,
    )  # fmt: skip
    ids = [list(h) for h in w.hashes()]
    whole = prefix // block
    heads = {tuple(row[:whole]) for row in ids}
    tails = [i for row in ids for i in row[whole:]]
    assert len(heads) <= groups
    assert len(tails) == len(set(tails))
    assert not set(tails) & {i for head in heads for i in head}


@pytest.mark.parametrize("name", fit_quantiles.TRACES)
def test_shipped_tables_reproduce_their_trace(name):
    trace = read_trace(shared(f"traces/{fit_quantiles.TRACES[name][0]}"), arrivals=Offline())
    w = named_workload(name, requests=100_000, qps=5.0, seed=3)
    for side in ("prompt_tokens", "output_tokens"):
        real, drawn = getattr(trace, side), getattr(w, side)
        assert drawn.mean() == pytest.approx(real.mean(), rel=0.03)
        for p in (10, 25, 50, 75, 90, 99):
            low, high = np.percentile(real, [p - 0.8, p + 0.8])  # sampling error, in probability
            assert low * 0.97 - 1 <= np.percentile(drawn, p) <= high * 1.03 + 1
    correlation = [np.corrcoef(x.prompt_tokens, x.output_tokens)[0, 1] for x in (trace, w)]
    assert correlation[0] == pytest.approx(correlation[1], abs=0.05)


def test_the_command_writes_the_committed_table():
    folder = shared("traces/AzureLLMInferenceTrace_conv.csv").parent
    shared("traces/AzureLLMInferenceTrace_code.csv")
    shared("traces/vidur_arxiv_summarization.csv")
    committed = (fit_quantiles.Path(fit_quantiles.__file__).parent / "azure_quantiles.toml").read_text()
    assert fit_quantiles.main(str(folder)) == committed


def test_every_fitted_trace_ships():
    assert set(quantile_names()) == set(fit_quantiles.TRACES)


@pytest.mark.parametrize(
    ("spec", "process"),
    [
        ("poisson", Poisson(2.0)),
        ("gamma:cv=3", Gamma(2.0, 3.0)),
        ("bursty:peak=4", Bursty(2.0, 4.0)),
        ("bursty:peak=4,burst_s=1", Bursty(2.0, 4.0, 1.0)),
        ("constant", Constant(2.0)),
        ("offline", Offline()),
    ],
)
def test_arrivals_have_names(spec, process):
    assert arrivals_named(spec, 2.0) == process


@pytest.mark.parametrize(
    ("spec", "says"),
    [("gama", "gamma"), ("gamma", "cv=NUMBER"), ("gamma:cv=x", "'x' is not a number"), ("poisson:cv=2", "no option")],
)
def test_arrival_names_that_are_none(spec, says):
    with pytest.raises(InputError, match=says):
        arrivals_named(spec, 2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Poisson(0),
        lambda: Poisson(float("nan")),
        lambda: Gamma(1.0, -1.0),
        lambda: Bursty(1.0, 0.5),
        lambda: Bursty(1.0, 2.0, 0.0),
        lambda: Constant(-2.0),
        lambda: Constant(1e-12)(10**6, np.random.default_rng(0)),
        lambda: Fixed(0),
        lambda: RangeRatio(10, 1.0),
        lambda: RangeRatio(10, float("nan")),
        lambda: Lognormal(0.2, 1.0),
        lambda: Quantiles(np.array([0, 0.5]), np.array([1, 2])),
        lambda: Quantiles(np.array([0, 1]), np.array([2, 1])),
        lambda: Quantiles(np.array([0, 1]), np.array([1, 2, 3])),
        lambda: streams(-1),
        lambda: named_workload("azure-conv", requests=3),
        lambda: named_workload("azure-conv", requests=3, qps=1.0, arrivals=Offline()),
        lambda: named_workload("azure-conv", requests=0, qps=1.0),
        lambda: closed_loop(requests=3, concurrency=0, prompts=Fixed(1), outputs=Fixed(1)),
    ],
)
def test_parameters_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        wrong()


def test_an_unknown_workload_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'azure-conv'"):
        named_workload("azure-cnv", requests=3, qps=1.0)
