//! The state of the spool and of the process as metrics, for those who are not looking at the command line.

use std::sync::Arc;

use metrics::Gauge;

use crate::config::units::ByteSize;
use crate::metrics::{Registry, Total};
use crate::spool::Stat;

/// Handles, made once.
pub(super) struct SpoolGauges {
    gauges: [(Gauge, Value); 9],
    totals: [(Arc<Total>, Value); 2],
}

/// What a gauge shows of a state.
type Value = fn(&Stat) -> u64;

impl SpoolGauges {
    /// Registers them. `reserve` is what is left free on the disk.
    pub fn new(registry: &Registry, reserve: ByteSize) -> Self {
        let gauge = |name, help| registry.gauge(name, help, &[]);
        let total = |name, help| registry.total(name, help, &[]);
        let help = "Free space below which submissions get 452 (spool.reserve).";
        gauge("hikyaku_spool_reserve_bytes", help).set(reserve.0 as f64);
        let gauges: [(_, Value); 9] = [
            (gauge("hikyaku_spool_fault", "1: the log has failed for good, submissions get 421; restart."), |stat| {
                stat.fault.into()
            }),
            (gauge("hikyaku_spool_full", "1: no room, submissions get 452."), |stat| stat.full.into()),
            (gauge("hikyaku_spool_recovering", "1: messages of earlier starts are still being raised."), |stat| {
                stat.recovering.into()
            }),
            (gauge("hikyaku_spool_free_bytes", "Free space on the spool's disk."), |stat| stat.free),
            (gauge("hikyaku_spool_segments", "Segments on disk."), |stat| stat.segments),
            (gauge("hikyaku_spool_bytes", "Octets that segments take."), |stat| stat.octets),
            (gauge("hikyaku_spool_live_bytes", "Octets of unfinished messages."), |stat| stat.live_octets),
            (gauge("hikyaku_spool_cache_bytes", "Octets of contents in memory, accepted lately."), |stat| stat.cached),
            (gauge("hikyaku_spool_messages", "Unfinished messages."), |stat| stat.messages),
        ];
        let totals: [(_, Value); 2] = [
            (total("hikyaku_spool_copied_messages_total", "Messages copied out of thin segments."), |stat| stat.copied),
            (total("hikyaku_spool_deleted_segments_total", "Segments deleted: nothing in them lived."), |stat| {
                stat.deleted
            }),
        ];
        Self { gauges, totals }
    }

    /// Shows a state.
    pub fn show(&self, stat: &Stat) {
        for (gauge, value) in &self.gauges {
            gauge.set(value(stat) as f64);
        }
        for (total, value) in &self.totals {
            total.raise(value(stat) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faulty_and_full_disks_can_be_seen_by_prometheus() {
        let registry = Registry::new().unwrap();

        SpoolGauges::new(&registry, "1MiB".parse().unwrap()).show(&Stat {
            fault: true,
            free: 5 << 30,
            live_octets: 7,
            ..Stat::default()
        });

        let text = registry.render();
        for line in ["spool_fault 1", "spool_full 0", "spool_free_bytes 5368709120", "spool_live_bytes 7"] {
            assert!(text.contains(&format!("hikyaku_{line}\n")), "{line}: {text}");
        }
    }
}
