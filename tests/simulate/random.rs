//! Sixteen receivers made by chance, which the controller was not tuned on (G1, G2).

use std::time::Duration;

use hikyaku::config::units::Span;
use hikyaku::simulate::{Noise, Profile, Receiver, Window};

use crate::stage::{all, cold, mean, median, refusals_are_few};

/// The same numbers every time (SplitMix64).
struct Chance(u64);

impl Chance {
    /// From 0 to less than 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, least: u32, most: u32) -> u32 {
        least + (self.share() * f64::from(most - least + 1)) as u32
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.share() * of.len() as f64) as usize]
    }
}

/// 20 to 1,256 a minute, three windows, 1 to 20 connections, 3 to 100 messages each, noise and dead hosts.
pub fn receivers() -> Vec<Profile> {
    (0..16).map(receiver).collect()
}

fn receiver(index: u64) -> Profile {
    let mut chance = Chance(index);
    let rate = (20.0 * (chance.share() * (1256.0f64 / 20.0).ln()).exp()).round();
    let window = [Window::Fixed, Window::Sliding, Window::Bucket][index as usize % 3];
    let is_bucket = window == Window::Bucket;
    let burst = if is_bucket { (rate * (0.05 + 0.95 * chance.share())).round() } else { 0.0 };
    let receiver = Receiver {
        rate_per_minute: rate,
        window,
        burst,
        connections: chance.between(1, 20),
        messages_per_connection: chance.between(3, 100),
        service_time: Span(Duration::from_millis(chance.between(50, 400).into())),
        setup_time: Span(Duration::from_millis(chance.between(50, 500).into())),
        dead_hosts: chance.one(&[0.0, 0.0, 0.1, 0.25]),
        noise: chance.one(&[0.0, 0.01, 0.02, 0.05]),
        noise_class: chance.one(&[Noise::Mailbox, Noise::Unknown]),
        close_on_throttle: chance.share() < 0.7,
        ..Receiver::default()
    };
    // What all connections carry: a dead host costs a second, and noise gets nothing accepted.
    let opening = receiver.setup_time.0.as_secs_f64() + receiver.dead_hosts / (1.0 - receiver.dead_hosts);
    let each = f64::from(receiver.messages_per_connection);
    let cycle = opening + each * receiver.service_time.0.as_secs_f64();
    let carried = f64::from(receiver.connections) * each / cycle * 60.0 * (1.0 - receiver.noise);
    let optimum = if carried < rate { carried * 240.0 } else { rate * 240.0 + burst };
    Profile {
        name: format!("chance {index}: {receiver:?}"),
        duration: Span(Duration::from_secs(4 * 3600)),
        optimum,
        demand_per_minute: 0.0,
        receiver,
        tenants: Vec::new(),
    }
}

#[test]
fn receivers_made_by_chance_are_used_up_too() {
    let profiles = receivers();
    let runs = all(&profiles, &cold());

    let goodputs: Vec<f64> = runs.iter().map(|runs| mean(runs, |run| run.goodput)).collect();

    let told: Vec<String> = profiles.iter().zip(&goodputs).map(|(p, g)| format!("{g:.3} {}", p.name)).collect();
    assert!(median(goodputs.iter().copied()) >= 0.95, "{told:#?}");
    assert!(goodputs.iter().all(|goodput| *goodput >= 0.88), "{told:#?}");
    let refusals = median(runs.iter().map(|runs| mean(runs, |run| run.throttled_per_1000)));
    assert!(refusals <= 1.5, "median of refusals {refusals:.2}");
    for (profile, runs) in profiles.iter().zip(&runs) {
        refusals_are_few(profile, runs).unwrap();
    }
}
