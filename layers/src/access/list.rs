//! Which addresses may connect: rules for networks, which can be changed while they are used.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ipnet::IpNet;

use getty_core::Address;

/// Whether a peer may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// It may.
    Allow,
    /// It is refused.
    Deny,
}

/// Rules that say which peers may connect. Clones share them: a change through one is seen by all, from the next
/// connection on.
///
/// A rule allows or denies a network, and there is one rule a network: the last one given. Of several rules that fit a
/// peer, the most specific network decides, whatever the order in which they were given; so no two rules contradict each
/// other. Where none fits, the list's default does, which its constructor names.
///
/// IPv4 addresses that come as IPv6 ones (`::ffff:192.0.2.1`, what a listener for both sees) are IPv4 addresses here, in
/// peers and in rules; a rule for `::/0` is for IPv6 alone.
///
/// Looking up costs one step for each length of prefix that rules have, however many rules there are.
///
/// ```
/// use getty_core::Address;
/// use getty_layers::access::{AccessList, IpNet};
/// use std::net::SocketAddr;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let list = AccessList::deny_all()
///     .with_allowed(["192.0.2.0/24".parse::<IpNet>()?, "2001:db8::/32".parse()?])
///     .with_denied(["192.0.2.64/26".parse::<IpNet>()?]);
/// let peer = |text: &str| text.parse::<SocketAddr>().map(Address::Ip);
/// assert!(list.check(&peer("192.0.2.1:4096")?).is_ok());
/// assert!(list.check(&peer("[::ffff:192.0.2.1]:4096")?).is_ok());
///
/// let denied = list.check(&peer("192.0.2.65:4096")?).unwrap_err();
/// assert_eq!(denied.to_string(), "192.0.2.65 is denied by the rule for 192.0.2.64/26");
/// let denied = list.check(&peer("198.51.100.1:4096")?).unwrap_err();
/// assert_eq!(denied.to_string(), "198.51.100.1 is allowed by no rule");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AccessList(Arc<RwLock<Rules>>);

#[derive(Clone, Debug)]
struct Rules {
    otherwise: Access,
    /// By length of prefix. None is empty.
    lengths: BTreeMap<u8, HashMap<IpNet, Access>>,
}

impl Rules {
    /// The rule that decides over this address.
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

/// The network without host bits, and as an IPv4 one where it holds IPv4 addresses alone.
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
    /// Every peer may connect, but those that a rule denies.
    #[must_use]
    pub fn allow_all() -> Self {
        Self::new(Access::Allow)
    }

    /// No peer may connect, but those that a rule allows.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::new(Access::Deny)
    }

    fn new(otherwise: Access) -> Self {
        Self(Arc::new(RwLock::new(Rules {
            otherwise,
            lengths: BTreeMap::new(),
        })))
    }

    /// With a rule that allows each of these networks; an `IpAddr` is a network of one.
    #[must_use]
    pub fn with_allowed(self, networks: impl IntoIterator<Item: Into<IpNet>>) -> Self {
        self.with(networks, Access::Allow)
    }

    /// With a rule that denies each of these networks; an `IpAddr` is a network of one.
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

    /// From now on this network may connect. Replaces a rule for the same network.
    pub fn allow(&self, network: impl Into<IpNet>) {
        let network = network.into();
        self.write().set(network, Access::Allow);
    }

    /// From now on this network may not connect. Replaces a rule for the same network. Connections that it has go on;
    /// a [registry](crate::Registry) can close them.
    pub fn deny(&self, network: impl Into<IpNet>) {
        let network = network.into();
        self.write().set(network, Access::Deny);
    }

    /// Removes the rule for exactly this network; `false` where there is none.
    pub fn remove(&self, network: impl Into<IpNet>) -> bool {
        let network = network.into();
        self.write().remove(network)
    }

    /// Takes over the default and all the rules of `other`, at once: a configuration is loaded anew.
    pub fn replace_with(&self, other: &Self) {
        let rules = other.read().clone();
        *self.write() = rules;
    }

    /// All the rules, the most specific first.
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

    /// Whether this peer may connect. A peer without an IP address falls under the list's default.
    ///
    /// # Errors
    ///
    /// [`AccessDenied`], which names the peer and the rule.
    pub fn check(&self, peer: &Address) -> Result<(), AccessDenied> {
        let rules = self.read();
        let found = peer.ip().and_then(|ip| rules.find(ip.to_canonical()));
        let (rule, access) = match found {
            Some((network, access)) => (Some(network), access),
            None => (None, rules.otherwise),
        };
        match access {
            Access::Allow => Ok(()),
            Access::Deny => Err(AccessDenied::new(peer, rule)),
        }
    }

    // no code of others runs under the lock, so that what it guards is whole whatever panics
    fn read(&self) -> RwLockReadGuard<'_, Rules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rules> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer may not connect.
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

    /// Who was refused.
    #[must_use]
    pub const fn peer(&self) -> &Address {
        &self.peer
    }

    /// The network whose rule denies the peer; `None` where no rule is for it, and the default denies.
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
            (Some(ip), None) => write!(f, "{} is allowed by no rule", ip.to_canonical()),
            (None, _) => write!(f, "{} has no IP address that could be allowed", self.peer),
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

    fn may(list: &AccessList, ip: &str) -> bool {
        let ip: IpAddr = ip.parse().unwrap();
        list.check(&Address::Ip((ip, 1).into())).is_ok()
    }

    #[test]
    fn without_rules_the_default_decides() {
        for ip in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert!(may(&AccessList::allow_all(), ip));
            assert!(!may(&AccessList::deny_all(), ip));
        }
    }

    #[test]
    fn the_most_specific_network_decides_whatever_the_order() {
        let rules = [
            ("0.0.0.0/0", Access::Deny),
            ("10.0.0.0/8", Access::Allow),
            ("10.1.0.0/16", Access::Deny),
            ("10.1.2.3/32", Access::Allow),
        ];
        let forwards: Vec<_> = rules.into();
        let backwards: Vec<_> = rules.into_iter().rev().collect();
        for rules in [forwards, backwards] {
            let list = AccessList::allow_all();
            for (network, access) in rules {
                match access {
                    Access::Allow => list.allow(net(network)),
                    Access::Deny => list.deny(net(network)),
                }
            }
            assert!(!may(&list, "11.0.0.1"));
            assert!(may(&list, "10.0.0.1"));
            assert!(!may(&list, "10.1.2.4"));
            assert!(may(&list, "10.1.2.3"));
            assert!(may(&list, "2001:db8::1"), "a rule of the other family");
        }
    }

    #[test]
    fn a_network_has_one_rule_the_last() {
        let list = AccessList::allow_all().with_denied([net("192.0.2.7/24")]);
        assert!(!may(&list, "192.0.2.1"), "host bits say nothing");
        list.allow(net("192.0.2.0/24"));
        assert!(may(&list, "192.0.2.1"));
        assert_eq!(list.rules(), [(net("192.0.2.0/24"), Access::Allow)]);
        assert!(list.remove(net("192.0.2.9/24")));
        assert!(!list.remove(net("192.0.2.0/24")));
        assert_eq!(list.rules(), []);
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_comes() {
        let list = AccessList::deny_all().with_allowed([net("::ffff:192.0.2.0/120")]);
        assert!(may(&list, "192.0.2.200"));
        assert!(may(&list, "::ffff:192.0.2.200"));
        assert!(!may(&list, "::ffff:192.0.3.1"));
        assert!(!may(&list, "::192.0.2.200"), "compatible, not mapped");
        assert!(list.remove(net("192.0.2.0/24")));

        list.allow(net("::/0"));
        assert!(may(&list, "2001:db8::1"));
        assert!(!may(&list, "::ffff:192.0.2.200"), "that is IPv4");
        list.allow(net("::ffff:0:0/96"));
        assert!(may(&list, "192.0.2.200"));
        let both = [net("0.0.0.0/0"), net("::/0")].map(|network| (network, Access::Allow));
        assert_eq!(list.rules(), both);
    }

    #[test]
    fn changes_are_seen_through_every_clone_and_a_replacement_at_once() {
        let list = AccessList::allow_all();
        let clone = list.clone();
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        list.deny(peer);
        assert!(!may(&clone, "192.0.2.1"));

        let other = AccessList::deny_all().with_allowed([peer]);
        list.replace_with(&other);
        assert!(may(&clone, "192.0.2.1") && !may(&clone, "192.0.2.2"));
        other.deny(peer);
        assert!(
            may(&clone, "192.0.2.1"),
            "a copy, not the other list itself"
        );
        list.replace_with(&clone);
        assert!(may(&clone, "192.0.2.1"));
    }

    #[test]
    fn the_error_names_the_peer_and_the_rule() {
        let list = AccessList::allow_all().with_denied([net("2001:db8::/32")]);
        let peer = Address::Ip("[2001:db8::5]:1234".parse().unwrap());
        let denied = list.check(&peer).unwrap_err();
        assert_eq!(*denied.peer(), peer);
        assert_eq!(denied.rule(), Some(net("2001:db8::/32")));

        let denied = AccessList::deny_all()
            .check(&Address::Memory(3))
            .unwrap_err();
        assert_eq!(denied.rule(), None);
        assert_eq!(
            denied.to_string(),
            "memory-3 has no IP address that could be allowed"
        );
        assert!(AccessList::allow_all().check(&Address::Memory(3)).is_ok());
    }
}
