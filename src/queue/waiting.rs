//! Paths that wait for something the whole site shares: by tenants' virtual times, within a tenant in turn.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::limit::fair::{Fair, Standing};

use super::ready::{Account, Best};

/// An order of waiting paths.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    tenants: Fair<Turn>,
}

#[derive(Debug)]
struct Turn {
    tenant: usize,
    account: Account,
    paths: VecDeque<u32>,
}

fn standing(turn: &Turn) -> Standing {
    if turn.paths.is_empty() { Standing::Empty } else { Standing::Elsewhere(turn.account.load(Ordering::Relaxed)) }
}

impl Waiting {
    /// Puts a path under its best tenant; in front if it keeps its turn or its next message is urgent.
    pub fn push(&mut self, best: Best, path: u32, keeps_turn: bool) {
        let Best { time, tenant, account, is_urgent } = best;
        let make = || Turn { tenant, account, paths: VecDeque::new() };
        let turn = self.tenants.child(tenant, 1, time, make);
        if keeps_turn || is_urgent { turn.paths.push_front(path) } else { turn.paths.push_back(path) }
    }

    /// Takes the path whose turn it is, with the tenant that it stood under.
    pub fn pop(&mut self) -> Option<(usize, u32)> {
        let place = self.tenants.next(standing)?;
        let turn = self.tenants.item(place)?;
        turn.paths.pop_front().map(|path| (turn.tenant, path))
    }

    /// The path whose turn it is, with the virtual time and key of the tenant that it stands under.
    pub fn peek(&mut self) -> Option<(u64, usize, u32)> {
        let place = self.tenants.next(standing)?;
        let time = self.tenants.time(place);
        let turn = self.tenants.item(place)?;
        turn.paths.front().map(|path| (time, turn.tenant, *path))
    }
}
