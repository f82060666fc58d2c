//! The addresses of a host in a remembered plan.
//!
//! Most hosts have one, and plans are remembered by the hundred thousand: that one is held in place, without an allocation
//! of its own. Read as a slice.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

/// Addresses, in order; cheap to clone.
#[derive(Clone, Debug)]
pub struct Addresses(Held);

#[derive(Clone, Debug)]
enum Held {
    One(IpAddr),
    Several(Arc<[IpAddr]>),
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Held::One(address) => std::slice::from_ref(address),
            Held::Several(addresses) => addresses,
        }
    }
}

impl From<&[IpAddr]> for Addresses {
    fn from(addresses: &[IpAddr]) -> Self {
        match addresses {
            [only] => Self(Held::One(*only)),
            several => Self(Held::Several(several.into())),
        }
    }
}

impl From<Arc<[IpAddr]>> for Addresses {
    fn from(addresses: Arc<[IpAddr]>) -> Self {
        match &*addresses {
            [only] => Self(Held::One(*only)),
            _ => Self(Held::Several(addresses)),
        }
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().collect::<Arc<[IpAddr]>>().into()
    }
}

impl PartialEq for Addresses {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Addresses {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_same_however_many_they_are() {
        let all = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];

        for count in 0..=all.len() {
            let some = &all[..count];
            assert_eq!(*Addresses::from(some), *some);
            assert_eq!(Addresses::from(Arc::<[IpAddr]>::from(some)), some.iter().copied().collect());
        }
        assert_ne!(Addresses::from(&all[..1]), Addresses::from(&all[1..]));
    }
}
