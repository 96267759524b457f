"""A wrong setting is refused when it is made, with the field, the value and what is allowed."""

import pickle
from math import inf, nan

import pytest

from batchscope import BatchscopeError, ConfigurationError, MetricsConfiguration, SchedulerLimits, SloTargets
from batchscope.errors import MissingExtraError, MissingPackageError

SAMPLES, SECONDS = "a whole number 1..10000000", "seconds, more than 0 and at most 86400"
NINE = {f"class {number}": SloTargets() for number in range(9)}
WRONG = [
    *((field, value, SAMPLES)
      for field in ("max_request_samples", "max_iteration_samples", "max_batch_samples")
      for value in (0, -1, 1.5, "10", None, True, nan, 10_000_001)),
    *((field, value, SECONDS)
      for field in ("counter_window_seconds", "detailed_log_interval_seconds")
      for value in (0, -1, nan, inf, "60", None, True, 86_401)),
    *(("percentile_precision", value, "a whole number 1..4") for value in (0, 5, 2.0, "2", None, True)),
    *(("max_error_types", value, "a whole number 1..10000") for value in (0, -5, 1.5, None, False, 10_001)),
    *((field, value, "True or False") for field in ("enable_detailed_logging", "strict") for value in (1, 0, None, "yes")),
    *(("slo", value, "SloTargets, a mapping") for value in (1.0, "fast", [SloTargets()])),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "allowed"), WRONG)
def test_a_wrong_value_is_refused_with_field_value_and_range(field, value, allowed):
    with pytest.raises(ConfigurationError) as caught:
        MetricsConfiguration(**{field: value})
    assert (caught.value.field, repr(caught.value.value)) == (field, repr(value))
    assert caught.value.allowed.startswith(allowed)
    assert str(caught.value) == f"{field} = {value!r}: expected {caught.value.allowed}"


@pytest.mark.parametrize(
    ("slo", "message"),
    [({}, "1 to 8 request classes"), (NINE, "1 to 8 request classes"), ({"": SloTargets()}, "1 to 64 characters"),
     ({"x" * 65: SloTargets()}, "1 to 64 characters"), ({7: SloTargets()}, "1 to 64 characters"),
     ({"chat": 1.0}, r"slo\['chat'\] = 1.0: expected SloTargets")],
)  # fmt: skip
def test_wrong_request_classes_are_refused(slo, message):
    with pytest.raises(ConfigurationError, match=message):
        MetricsConfiguration(slo=slo)


@pytest.mark.parametrize("field", SloTargets.__struct_fields__)
@pytest.mark.parametrize("value", [0, -0.5, nan, inf, "1", True])
def test_a_target_that_is_no_time_is_refused(field, value):
    with pytest.raises(ConfigurationError, match=rf"{field} = .*: expected seconds > 0, or None"):
        SloTargets(**{field: value})


@pytest.mark.parametrize("field", SchedulerLimits.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, nan])
def test_a_limit_that_is_no_whole_number_above_zero_is_refused(field, value):
    with pytest.raises(ConfigurationError, match=rf"{field} = .*: expected a whole number >= 1 or None"):
        SchedulerLimits(**{field: value})


def test_the_error_is_a_value_error_and_one_of_ours():
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(ConfigurationError, BatchscopeError)


def sent(error):
    """As a pool's parent gets it."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("limits", 0, "a whole number above 0"), ConfigurationError("labels", {"a": 1}, "texts"),
        MissingExtraError("OpenTelemetry export", "otlp"), MissingPackageError("to_pandas()", "pandas"),
    ],
    ids=str,
)  # fmt: skip
def test_an_error_goes_from_a_worker_to_its_parent_as_it_was(error):
    back = sent(error)
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_an_error_about_a_value_that_cannot_leave_its_process_goes_with_the_value_in_words():
    error = ConfigurationError("clock", lambda: 1.0, "a function without arguments")
    back = sent(error)
    assert (str(back), back.field, back.allowed) == (str(error), error.field, error.allowed)
    assert str(sent(back)) == str(error)


def test_the_default_has_the_values_of_the_specification():
    default = MetricsConfiguration.DEFAULT
    assert default == MetricsConfiguration()
    assert (default.max_request_samples, default.max_iteration_samples, default.max_batch_samples) == (10_000,) * 3
    assert (default.counter_window_seconds, default.percentile_precision, default.max_error_types) == (60, 2, 100)
    assert (default.enable_detailed_logging, default.detailed_log_interval_seconds) == (False, 30)
    assert (default.slo, default.strict) == (None, False)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        MetricsConfiguration.DEFAULT.strict = True


@pytest.mark.parametrize(("precision", "scale"), [(1, 2), (2, 6), (3, 9), (4, 12)])
def test_digits_of_precision_give_the_histograms_scale(precision, scale):
    assert MetricsConfiguration(percentile_precision=precision).histogram_scale == scale


def test_one_objective_for_all_is_the_class_default_and_classes_are_kept_as_declared():
    target = SloTargets(e2e_latency=1)
    assert MetricsConfiguration(slo=target).slo_by_class == {"default": target}
    assert not MetricsConfiguration(slo=target).classes_declared
    assert MetricsConfiguration(slo={"chat": target}).slo_by_class == {"chat": target}
    assert MetricsConfiguration(slo={"chat": target}).classes_declared


def test_the_targets_that_are_set_are_declared_and_no_others():
    assert SloTargets(e2e_latency=2, max_emission_gap=0.5).declared == {"e2e_latency": 2.0, "max_emission_gap": 0.5}
    assert SloTargets().declared == {}


def test_no_pipeline_is_one_stage():
    assert SchedulerLimits(pipeline_stages=None) == SchedulerLimits(pipeline_stages=1) == SchedulerLimits()


@pytest.mark.parametrize(("places", "stages", "share"), [(8, 1, 8), (8, 2, 4), (10, 4, 2.5), (None, 2, None)])
def test_each_pipeline_stage_has_an_even_share_of_the_places(places, stages, share):
    assert SchedulerLimits(max_running_requests=places, pipeline_stages=stages).batch_places == share
