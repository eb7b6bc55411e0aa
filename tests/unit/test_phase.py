"""The phases of a service, as they are shown."""

from cdc_embed.metrics import PHASES, Metrics
from cdc_embed.service import Phase


def test_the_metrics_show_every_phase_one_at_a_time() -> None:
    assert [phase.value for phase in Phase] == list(PHASES)
    metrics = Metrics(slot="s", tables=[], model="m")
    for phase in Phase:
        metrics.set_phase(phase.value)
        shown = {
            name: metrics.registry.get_sample_value("cdc_embed_phase", {"phase": name})
            for name in PHASES
        }
        assert shown == {name: float(name == phase.value) for name in PHASES}


def test_only_a_leader_and_a_standby_are_useful() -> None:
    assert {phase for phase in Phase if phase.useful} == {Phase.STREAMING, Phase.STANDBY}
