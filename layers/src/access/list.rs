//! List of allowed and denied networks, which can be changed while it is in use.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipnet::IpNet;

use getty_core::Address;

/// Access of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The peer may connect.
    Allow,
    /// The peer is refused.
    Deny,
}

/// Rules that allow or deny networks. Clones share the rules: a change through one clone
/// applies to the next connection of all.
///
/// There is one rule per network, the last one given. If several rules match a peer, the most
/// specific network decides, independent of the order of the rules. So rules never contradict
/// each other. If no rule matches, the default of the list applies, which its constructor sets.
///
/// IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`, as a dual-stack listener reports) are IPv4
/// addresses here, in peers and in rules. A rule for `::/0` applies to IPv6 only.
///
/// An [`IpNet`] is parsed from an address with a prefix length. A single address is parsed as
/// an [`IpAddr`], which every method accepts as well.
///
/// A lookup costs one step for each distinct prefix length, independent of the number of rules.
///
/// ```
/// use getty_core::Address;
/// use getty_layers::access::{AccessList, IpNet};
/// use std::net::SocketAddr;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let list = AccessList::deny_all()
///     .with_allowed(["192.0.2.0/24".parse::<IpNet>()?, "2001:db8::/32".parse()?])
///     .with_denied(["192.0.2.64/26".parse::<IpNet>()?])
///     .with_denied(["192.0.2.9".parse::<std::net::IpAddr>()?]);
/// let peer = |text: &str| text.parse::<SocketAddr>().map(Address::Ip);
/// assert!(list.check(&peer("192.0.2.1:4096")?).is_ok());
/// assert!(list.check(&peer("[::ffff:192.0.2.1]:4096")?).is_ok());
///
/// let denied = list.check(&peer("192.0.2.65:4096")?).unwrap_err();
/// assert_eq!(denied.to_string(), "192.0.2.65 is denied by the rule for 192.0.2.64/26");
/// let denied = list.check(&peer("198.51.100.1:4096")?).unwrap_err();
/// assert_eq!(denied.to_string(), "no rule allows 198.51.100.1");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AccessList(Arc<RwLock<Rules>>);

#[derive(Clone, Debug)]
struct Rules {
    default: Access,
    /// Rules by prefix length. No map in it is empty.
    lengths: BTreeMap<u8, HashMap<IpNet, Access>>,
}

impl Rules {
    /// Returns the most specific rule that matches `ip`.
    fn find(&self, ip: IpAddr) -> Option<(IpNet, Access)> {
        self.lengths.iter().rev().find_map(|(&length, rules)| {
            let network = IpNet::new(ip, length).ok()?.trunc();
            Some((network, *rules.get(&network)?))
        })
    }

    fn set(&mut self, network: IpNet, access: Access) {
        let network = canonical(network);
        let length = network.prefix_len();
        self.lengths
            .entry(length)
            .or_default()
            .insert(network, access);
    }

    fn remove(&mut self, network: IpNet) -> bool {
        let network = canonical(network);
        let length = network.prefix_len();
        let Some(rules) = self.lengths.get_mut(&length) else {
            return false;
        };
        let removed = rules.remove(&network).is_some();
        if rules.is_empty() {
            self.lengths.remove(&length);
        }
        removed
    }
}

/// Returns the network without host bits, as an IPv4 network if it contains only mapped
/// addresses.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let network = network.trunc();
    let length = network.prefix_len();
    if length < MAPPED {
        return network;
    }
    match network.addr().to_canonical() {
        IpAddr::V4(ip) if network.addr().is_ipv6() => {
            IpNet::new(ip.into(), length - MAPPED).unwrap_or(network)
        }
        _ => network,
    }
}

impl AccessList {
    /// Creates a new list that allows every peer unless a rule denies it.
    #[must_use]
    pub fn allow_all() -> Self {
        Self::new(Access::Allow)
    }

    /// Creates a new list that denies every peer unless a rule allows it.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::new(Access::Deny)
    }

    fn new(default: Access) -> Self {
        Self(Arc::new(RwLock::new(Rules {
            default,
            lengths: BTreeMap::new(),
        })))
    }

    /// Adds a rule that allows each of these networks. An `IpAddr` is a network with one address.
    #[must_use]
    pub fn with_allowed(self, networks: impl IntoIterator<Item: Into<IpNet>>) -> Self {
        self.with(networks, Access::Allow)
    }

    /// Adds a rule that denies each of these networks. An `IpAddr` is a network with one address.
    #[must_use]
    pub fn with_denied(self, networks: impl IntoIterator<Item: Into<IpNet>>) -> Self {
        self.with(networks, Access::Deny)
    }

    fn with(self, networks: impl IntoIterator<Item: Into<IpNet>>, access: Access) -> Self {
        for network in networks {
            self.write().set(network.into(), access);
        }
        self
    }

    /// Allows a network from now on. Replaces a rule for the same network.
    pub fn allow(&self, network: impl Into<IpNet>) {
        let network = network.into();
        self.write().set(network, Access::Allow);
    }

    /// Denies a network from now on. Replaces a rule for the same network. Its open connections
    /// continue; use a [registry](crate::Registry) to close them.
    pub fn deny(&self, network: impl Into<IpNet>) {
        let network = network.into();
        self.write().set(network, Access::Deny);
    }

    /// Removes the rule for exactly this network. Returns `false` if there is none.
    pub fn remove(&self, network: impl Into<IpNet>) -> bool {
        let network = network.into();
        self.write().remove(network)
    }

    /// Replaces the default and all rules by those of `other` in one step. Use it to reload a
    /// configuration.
    pub fn replace_with(&self, other: &Self) {
        let rules = other.read().clone();
        *self.write() = rules;
    }

    /// Returns all rules, the most specific first.
    #[must_use]
    pub fn rules(&self) -> Vec<(IpNet, Access)> {
        let rules = self.read();
        let mut all = Vec::new();
        for rules in rules.lengths.values().rev() {
            let start = all.len();
            all.extend(rules.iter().map(|(network, access)| (*network, *access)));
            all[start..].sort_unstable_by_key(|(network, _)| *network);
        }
        all
    }

    /// Checks whether a peer may connect. A peer without an IP address has the default of the list.
    ///
    /// # Errors
    ///
    /// Returns [`AccessDenied`] with the peer and the rule if it may not.
    pub fn check(&self, peer: &Address) -> Result<(), AccessDenied> {
        let rules = self.read();
        let found = peer.ip().and_then(|ip| rules.find(ip.to_canonical()));
        let (rule, access) = match found {
            Some((network, access)) => (Some(network), access),
            None => (None, rules.default),
        };
        match access {
            Access::Allow => Ok(()),
            Access::Deny => Err(AccessDenied::new(peer, rule)),
        }
    }

    // No user code runs under the lock, so poisoned rules are still consistent.
    fn read(&self) -> RwLockReadGuard<'_, Rules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rules> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Error of a denied peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessDenied {
    peer: Address,
    rule: Option<IpNet>,
}

impl AccessDenied {
    pub(super) fn new(peer: &Address, rule: Option<IpNet>) -> Self {
        Self {
            peer: peer.clone(),
            rule,
        }
    }

    /// Returns the address of the denied peer.
    #[must_use]
    pub const fn peer(&self) -> &Address {
        &self.peer
    }

    /// Returns the network whose rule denies the peer or `None` if the default denies it.
    #[must_use]
    pub const fn rule(&self) -> Option<IpNet> {
        self.rule
    }
}

impl fmt::Display for AccessDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.peer.ip(), self.rule) {
            (Some(ip), Some(rule)) => {
                write!(f, "{} is denied by the rule for {rule}", ip.to_canonical())
            }
            (Some(ip), None) => write!(f, "no rule allows {}", ip.to_canonical()),
            (None, _) => write!(f, "{} has no IP address to allow", self.peer),
        }
    }
}

impl Error for AccessDenied {}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn is_allowed(list: &AccessList, ip: &str) -> bool {
        let ip: IpAddr = ip.parse().unwrap();
        list.check(&Address::Ip((ip, 1).into())).is_ok()
    }

    #[test]
    fn without_rules_the_default_decides() {
        for ip in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert!(is_allowed(&AccessList::allow_all(), ip));
            assert!(!is_allowed(&AccessList::deny_all(), ip));
        }
    }

    #[test]
    fn most_specific_network_decides_in_any_order() {
        let rules = [
            ("0.0.0.0/0", Access::Deny),
            ("10.0.0.0/8", Access::Allow),
            ("10.1.0.0/16", Access::Deny),
            ("10.1.2.3/32", Access::Allow),
        ];
        let forward: Vec<_> = rules.into();
        let backward: Vec<_> = rules.into_iter().rev().collect();
        for rules in [forward, backward] {
            let list = AccessList::allow_all();
            for (network, access) in rules {
                match access {
                    Access::Allow => list.allow(net(network)),
                    Access::Deny => list.deny(net(network)),
                }
            }
            assert!(!is_allowed(&list, "11.0.0.1"));
            assert!(is_allowed(&list, "10.0.0.1"));
            assert!(!is_allowed(&list, "10.1.2.4"));
            assert!(is_allowed(&list, "10.1.2.3"));
            assert!(
                is_allowed(&list, "2001:db8::1"),
                "IPv4 rules do not apply to IPv6"
            );
        }
    }

    #[test]
    fn last_rule_of_a_network_replaces_earlier_ones() {
        let list = AccessList::allow_all().with_denied([net("192.0.2.7/24")]);
        assert!(!is_allowed(&list, "192.0.2.1"), "host bits are ignored");
        list.allow(net("192.0.2.0/24"));
        assert!(is_allowed(&list, "192.0.2.1"));
        assert_eq!(list.rules(), [(net("192.0.2.0/24"), Access::Allow)]);
        assert!(list.remove(net("192.0.2.9/24")));
        assert!(!list.remove(net("192.0.2.0/24")));
        assert_eq!(list.rules(), []);
    }

    #[test]
    fn mapped_ipv4_addresses_are_ipv4() {
        let list = AccessList::deny_all().with_allowed([net("::ffff:192.0.2.0/120")]);
        assert!(is_allowed(&list, "192.0.2.200"));
        assert!(is_allowed(&list, "::ffff:192.0.2.200"));
        assert!(!is_allowed(&list, "::ffff:192.0.3.1"));
        assert!(
            !is_allowed(&list, "::192.0.2.200"),
            "compatible, not mapped"
        );
        assert!(list.remove(net("192.0.2.0/24")));

        list.allow(net("::/0"));
        assert!(is_allowed(&list, "2001:db8::1"));
        assert!(
            !is_allowed(&list, "::ffff:192.0.2.200"),
            "a mapped address is IPv4"
        );
        list.allow(net("::ffff:0:0/96"));
        assert!(is_allowed(&list, "192.0.2.200"));
        let both = [net("0.0.0.0/0"), net("::/0")].map(|network| (network, Access::Allow));
        assert_eq!(list.rules(), both);
    }

    #[test]
    fn clones_share_changes_and_replacements() {
        let list = AccessList::allow_all();
        let clone = list.clone();
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        list.deny(peer);
        assert!(!is_allowed(&clone, "192.0.2.1"));

        let other = AccessList::deny_all().with_allowed([peer]);
        list.replace_with(&other);
        assert!(is_allowed(&clone, "192.0.2.1") && !is_allowed(&clone, "192.0.2.2"));
        other.deny(peer);
        assert!(is_allowed(&clone, "192.0.2.1"), "the rules were copied");
        list.replace_with(&clone);
        assert!(is_allowed(&clone, "192.0.2.1"));
    }

    #[test]
    fn error_contains_the_peer_and_the_rule() {
        let list = AccessList::allow_all().with_denied([net("2001:db8::/32")]);
        let peer = Address::Ip("[2001:db8::5]:1234".parse().unwrap());
        let denied = list.check(&peer).unwrap_err();
        assert_eq!(*denied.peer(), peer);
        assert_eq!(denied.rule(), Some(net("2001:db8::/32")));

        let denied = AccessList::deny_all()
            .check(&Address::Memory(3))
            .unwrap_err();
        assert_eq!(denied.rule(), None);
        assert_eq!(denied.to_string(), "memory-3 has no IP address to allow");
        assert!(AccessList::allow_all().check(&Address::Memory(3)).is_ok());
    }
}
