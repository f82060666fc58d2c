//! What bounds a controller from outside: ceilings from the configuration, and an operator's orders.

/// What the configuration allows at most, whatever has been learnt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Messages a second; None: no limit.
    pub rate: Option<f64>,
    /// Connections at the same time; at least 1.
    pub connections: u32,
    /// Messages over one connection; 0: no limit.
    pub messages_per_connection: u32,
    /// New connections a minute; 0: no limit.
    pub openings_per_minute: u32,
}

impl Default for Ceilings {
    /// As the configuration's defaults.
    fn default() -> Self {
        Self { rate: None, connections: 20, messages_per_connection: 1000, openings_per_minute: 0 }
    }
}

/// Where learning begins, while nothing is known about a receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// Messages a second; infinite: no limit until the first refusal.
    pub rate: f64,
    /// Connections at the same time.
    pub connections: u32,
    /// Messages over one connection; 0: no limit.
    pub messages_per_connection: u32,
}

impl Default for Start {
    fn default() -> Self {
        Self { rate: super::rate::FIRST, connections: super::connections::FIRST, messages_per_connection: 0 }
    }
}

/// An operator's bounds of one limit; equal ones pin it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Not below this.
    pub least: Option<f64>,
    /// Not above this.
    pub most: Option<f64>,
}

impl Bounds {
    /// Exactly this.
    pub const fn pin(value: f64) -> Self {
        Self { least: Some(value), most: Some(value) }
    }

    /// A learnt value within the bounds.
    pub fn clamp(&self, value: f64) -> f64 {
        let value = self.least.map_or(value, |least| value.max(least));
        self.most.map_or(value, |most| value.min(most))
    }
}

/// An operator's bounds of every limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Orders {
    /// Of the rate, in messages a second.
    pub rate: Bounds,
    /// Of connections.
    pub connections: Bounds,
    /// Of messages over one connection.
    pub messages_per_connection: Bounds,
}

/// The least rate, a message a minute: less is a breaker's business.
pub(super) const LEAST_RATE: f64 = 1.0 / 60.0;
