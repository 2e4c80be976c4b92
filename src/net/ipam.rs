//! Pod addresses of one node: pure, no IO.
use super::{Error, Result, model::host};
use ipnetwork::Ipv4Network;
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Hands out the pod addresses of one node.
///
/// The network address (the VTEP's), the gateway (.1) and the broadcast address are never given out. The search
/// starts after the address given out last, so a released address rests until the whole range has been used:
/// a late packet or a cached name of a dead pod does not reach a new one.
#[derive(Debug, Clone)]
pub struct Ipam {
    cidr: Ipv4Network,
    used: BTreeSet<Ipv4Addr>,
    last: u32,
}

/// Host part of the first address a pod can have: 0 is the VTEP, 1 the gateway.
const FIRST: u32 = 2;

impl Ipam {
    pub fn new(cidr: Ipv4Network) -> Self {
        Ipam { cidr, used: BTreeSet::new(), last: FIRST - 1 }
    }

    /// How many pods fit.
    pub fn capacity(&self) -> u32 {
        (self.cidr.size() - 1).saturating_sub(FIRST)
    }

    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// Marks an address as taken, as when pods are found again after a restart.
    ///
    /// Errors: not an address a pod of this node can have. Taking one twice is fine (the second run finds it).
    pub fn reserve(&mut self, ip: Ipv4Addr) -> Result<()> {
        let offset = u32::from(ip).wrapping_sub(u32::from(self.cidr.network()));
        if offset < FIRST || offset >= self.cidr.size() - 1 {
            return Err(Error::Invalid(format!("{ip} is no pod address of {}", self.cidr)));
        }
        self.used.insert(ip);
        self.last = self.last.max(offset);
        Ok(())
    }

    /// Takes the next free address. Errors: `Exhausted`.
    pub fn allocate(&mut self) -> Result<Ipv4Addr> {
        let n = self.capacity();
        for step in 1..=n {
            let offset = FIRST + (self.last + n + step - FIRST) % n;
            let ip = host(self.cidr, offset);
            if self.used.insert(ip) {
                self.last = offset;
                return Ok(ip);
            }
        }
        Err(Error::Exhausted(self.cidr))
    }

    /// Gives an address back; unknown ones are ignored, so that a repeated clean-up is harmless.
    pub fn release(&mut self, ip: Ipv4Addr) {
        self.used.remove(&ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(cidr: &str) -> Ipam {
        Ipam::new(cidr.parse().unwrap())
    }

    #[test]
    fn a_released_address_rests() {
        let mut i = ipam("10.244.1.0/24");
        let a = i.allocate().unwrap();
        assert_eq!(a, Ipv4Addr::new(10, 244, 1, 2));
        i.release(a);
        assert_eq!(i.allocate().unwrap(), Ipv4Addr::new(10, 244, 1, 3));
    }

    #[test]
    fn exhausted_then_reused() {
        let mut i = ipam("10.244.1.0/29");
        let all: Vec<_> = (0..i.capacity()).map(|_| i.allocate().unwrap()).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(all.iter().map(|a| a.octets()[3]).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert!(matches!(i.allocate(), Err(Error::Exhausted(_))));
        i.release(all[3]);
        assert_eq!(i.allocate().unwrap(), all[3]);
    }

    #[test]
    fn reserve_checks_and_is_idempotent() {
        let mut i = ipam("10.244.1.0/24");
        for bad in ["10.244.1.0", "10.244.1.1", "10.244.1.255", "10.244.2.5", "1.1.1.1"] {
            assert!(i.reserve(bad.parse().unwrap()).is_err(), "{bad}");
        }
        i.reserve("10.244.1.9".parse().unwrap()).unwrap();
        i.reserve("10.244.1.9".parse().unwrap()).unwrap();
        assert_eq!(i.allocate().unwrap(), Ipv4Addr::new(10, 244, 1, 10), "goes on after what is known");
    }
}
