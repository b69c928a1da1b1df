//! Record of all requests, messages and sessions of a run, and the rules that they must obey.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use getty::{CloseReason, layers::Delivery};

use crate::trace::Trace;

/// Number of a request, unique in a run.
pub type Nonce = u64;

/// Record shared by all hosts of a run.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
    trace: Trace,
}

#[derive(Default)]
struct Inner {
    violation: Option<String>,
    calls: HashMap<Nonce, Call>,
    /// One-way messages that a server has handled.
    received: HashSet<Nonce>,
    /// One-way messages that were returned as not sent.
    unsent: HashSet<Nonce>,
    /// One-way messages that a client has sent, in the order of each client.
    sent: BTreeMap<Nonce, OneWay>,
    sessions: HashMap<(Side, SocketAddr), Life>,
    counts: BTreeMap<String, u64>,
    /// Number of successful calls of each client host.
    answered: HashMap<usize, u64>,
    /// Times of the dials of each client host.
    dials: Vec<(usize, Duration)>,
    /// Peers that went silent, with the time by which sessions to them must have ended.
    silent: Vec<Silent>,
    /// Most bytes that waited in one session of a server.
    most_pending: usize,
}

#[derive(Default)]
struct Call {
    executed: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Failed(Delivery),
    /// The caller has given up, or its host has crashed.
    Dropped,
}

/// Side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The session of a client.
    Client,
    /// The session of a server.
    Server,
}

/// A one-way message that a client has sent.
struct OneWay {
    client: IpAddr,
    /// Begin of the attempt that sent it.
    begun: Duration,
    /// End of this attempt.
    ended: Duration,
}

struct Life {
    peer: IpAddr,
    opened: Duration,
    closed: Option<CloseReason>,
    /// Time of the close.
    ended: Duration,
    /// Bytes that were accepted and not sent before the close.
    unsent_bytes: u64,
    /// Number of the last push that a server's session accepted.
    accepted: u64,
    /// Number of the last push that was sent or received.
    push: u64,
    /// Number of the last one-way message that was received.
    message: u64,
}

struct Silent {
    peer: IpAddr,
    since: Duration,
    until: Duration,
}

impl Inner {
    /// Returns the messages with these numbers that were sent on the session of `client`, and
    /// that its server has not received.
    ///
    /// A client has one session at a time. So a message was sent on this session if its
    /// attempt began and ended while the session was open.
    fn lost_messages(&self, client: SocketAddr, numbers: Range<Nonce>) -> Vec<Nonce> {
        let Some(life) = self.sessions.get(&(Side::Client, client)) else {
            return Vec::new();
        };
        if numbers.is_empty() {
            return Vec::new();
        }
        let sent = self.sent.range(numbers).filter(|(nonce, message)| {
            let is_on_session = message.client == client.ip()
                && message.begun > life.opened
                && message.ended < life.ended;
            is_on_session && !self.received.contains(nonce)
        });
        sent.map(|(nonce, _)| *nonce).collect()
    }

    /// Describes the first message or push that was accepted and has not arrived, on the
    /// sessions that `fits` selects by the sender's and the receiver's life.
    fn undelivered(&self, fits: impl Fn(&Life, &Life) -> bool) -> Option<String> {
        let mut found = Vec::new();
        for ((side, client), server) in &self.sessions {
            let life = self.sessions.get(&(Side::Client, *client));
            let Some(life) = life.filter(|_| *side == Side::Server) else {
                continue;
            };
            if server.accepted > life.push && fits(server, life) {
                let (last, arrived) = (server.accepted, life.push);
                let what = format!("push {last} to {client} was accepted, and {arrived} arrived");
                found.push((*client, what));
            }
            if fits(life, server)
                && let Some(lost) = self.lost_messages(*client, 0..Nonce::MAX).first()
            {
                let what = format!("message {lost} of {client} was sent and has not arrived");
                found.push((*client, what));
            }
        }
        found.into_iter().min().map(|(_, what)| what)
    }
}

impl Ledger {
    /// Creates an empty record.
    pub fn new(trace: Trace) -> Self {
        let inner = Arc::default();
        Self { inner, trace }
    }

    /// Returns the trace of the run.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a rule was broken. The first one ends the run.
    pub fn violation(&self, what: String) {
        self.trace.event(format_args!("VIOLATION: {what}"));
        self.lock().violation.get_or_insert(what);
    }

    /// Returns the first broken rule.
    pub fn broken(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    /// Counts an event for the summary.
    pub fn count(&self, what: impl Into<String>) {
        *self.lock().counts.entry(what.into()).or_default() += 1;
    }

    /// Returns the counts of all events.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.lock().counts.clone()
    }

    // Requests: each is answered once or fails with a typed error, and is executed at most once.

    /// Records that a request begins.
    pub fn begin(&self, nonce: Nonce) {
        self.trace.event(format_args!("request {nonce}"));
        if self.lock().calls.insert(nonce, Call::default()).is_some() {
            self.violation(format!("request {nonce} began twice"));
        }
    }

    /// Records that a server executes a request.
    pub fn executed(&self, nonce: Nonce) {
        self.trace.event(format_args!("execute {nonce}"));
        let mut inner = self.lock();
        let Some(call) = inner.calls.get_mut(&nonce) else {
            drop(inner);
            return self.violation(format!("request {nonce} was executed and never sent"));
        };
        let twice = std::mem::replace(&mut call.executed, true);
        let end = call.end;
        drop(inner);
        if twice {
            self.violation(format!("request {nonce} was executed twice"));
        }
        if end == Some(End::Failed(Delivery::NotSent)) {
            self.violation(format!("request {nonce} was executed after `NotSent`"));
        }
    }

    /// Records the response to a request.
    pub fn answered(&self, client: usize, nonce: Nonce, response: Nonce) {
        self.end(nonce, End::Answered);
        if nonce != response {
            self.violation(format!("request {nonce} got the response to {response}"));
        }
        if !self
            .lock()
            .calls
            .get(&nonce)
            .is_some_and(|call| call.executed)
        {
            self.violation(format!("request {nonce} was answered and not executed"));
        }
        *self.lock().answered.entry(client).or_default() += 1;
    }

    /// Records the failure of a request.
    pub fn failed(&self, nonce: Nonce, delivery: Delivery) {
        self.end(nonce, End::Failed(delivery));
        let executed = self
            .lock()
            .calls
            .get(&nonce)
            .is_some_and(|call| call.executed);
        if executed && delivery == Delivery::NotSent {
            self.violation(format!("request {nonce} was executed and is `NotSent`"));
        }
    }

    /// Records that the caller dropped a request.
    pub fn dropped(&self, nonce: Nonce) {
        self.end(nonce, End::Dropped);
    }

    fn end(&self, nonce: Nonce, end: End) {
        self.trace.event(format_args!("request {nonce}: {end:?}"));
        self.count(format!("request {end:?}"));
        let mut inner = self.lock();
        let call = inner.calls.entry(nonce).or_default();
        let twice = call.end.replace(end).is_some();
        drop(inner);
        if twice {
            self.violation(format!("request {nonce} ended twice"));
        }
    }

    /// Returns `true` if a request has not ended.
    pub fn has_open_calls(&self) -> bool {
        self.lock().calls.values().any(|call| call.end.is_none())
    }

    /// Requires that every request has ended.
    pub fn require_no_open_calls(&self) {
        let open = |(nonce, call): (&Nonce, &Call)| call.end.is_none().then_some(*nonce);
        let first = self.lock().calls.iter().filter_map(open).min();
        if let Some(nonce) = first {
            self.violation(format!("request {nonce} neither got a response nor failed"));
        }
    }

    /// Requires that every executed request was answered unless its caller gave up, as in a
    /// graceful restart.
    pub fn require_executed_are_answered(&self) {
        let lost = |(nonce, call): (&Nonce, &Call)| {
            let lost = matches!(call.end, None | Some(End::Failed(_)));
            (call.executed && lost).then_some((*nonce, call.end))
        };
        let first = self
            .lock()
            .calls
            .iter()
            .filter_map(lost)
            .min_by_key(|lost| lost.0);
        if let Some((nonce, end)) = first {
            self.violation(format!("request {nonce} was executed and ended as {end:?}"));
        }
    }

    /// Returns the number of successful requests of a client.
    pub fn answers(&self, client: usize) -> u64 {
        self.lock().answered.get(&client).copied().unwrap_or(0)
    }

    // One-way messages and pushes: never delivered twice, in order within a session, and lost
    // only behind the last one that a session delivers before it ends.

    /// Records that a one-way message was returned as not sent, for good.
    pub fn unsent(&self, nonce: Nonce) {
        self.count("message not sent");
        let mut inner = self.lock();
        inner.unsent.insert(nonce);
        let received = inner.received.contains(&nonce);
        drop(inner);
        if received {
            self.violation(format!(
                "message {nonce} was delivered and returned as unsent"
            ));
        }
    }

    /// Records a one-way message that a server received on the session with `client`.
    pub fn message(&self, client: SocketAddr, nonce: Nonce) {
        self.trace
            .event(format_args!("message {nonce} from {client}"));
        self.count("message delivered");
        let mut inner = self.lock();
        let twice = !inner.received.insert(nonce);
        let returned = inner.unsent.contains(&nonce);
        let life = inner.sessions.get_mut(&(Side::Server, client));
        let before = life.map_or(0, |life| std::mem::replace(&mut life.message, nonce));
        let lost = inner.lost_messages(client, before.saturating_add(1)..nonce);
        let lost = lost.first().copied();
        drop(inner);
        if let Some(lost) = lost {
            self.violation(format!(
                "message {lost} was sent on the session of {client}, which lost it before {nonce}"
            ));
        }
        if twice {
            self.violation(format!("message {nonce} was delivered twice"));
        }
        if returned {
            self.violation(format!(
                "message {nonce} was returned as unsent, then delivered"
            ));
        }
        if before >= nonce {
            self.violation(format!(
                "message {nonce} came after {before} on one session"
            ));
        }
    }

    /// Records that a message was sent on a session of the client with this address. The
    /// attempt began at `begun`.
    pub fn sent(&self, client: IpAddr, nonce: Nonce, begun: Duration) {
        self.count("message sent");
        let ended = self.trace.now();
        let message = OneWay {
            client,
            begun,
            ended,
        };
        self.lock().sent.insert(nonce, message);
    }

    /// Records that the session with `client` has accepted a push.
    pub fn accepted(&self, client: SocketAddr, number: u64) {
        let mut inner = self.lock();
        if let Some(life) = inner.sessions.get_mut(&(Side::Server, client)) {
            life.accepted = number;
        }
    }

    /// Returns a description of a message or push that was accepted by a session which is
    /// open on both sides, and has not arrived yet.
    pub fn undelivered(&self) -> Option<String> {
        let is_open = |life: &Life| life.closed.is_none();
        self.lock()
            .undelivered(|sender, receiver| is_open(sender) && is_open(receiver))
    }

    /// Requires that a session which has ended in order has delivered all that it has
    /// accepted: the sender has closed and flushed, and the receiver has seen the end. A side
    /// that closes may discard what it receives.
    pub fn require_orderly_ends_deliver(&self) {
        let lost = self.lock().undelivered(|sender, receiver| {
            let local = [CloseReason::Local, CloseReason::Shutdown];
            let reason = sender.closed.as_ref();
            let has_closed = reason.is_some_and(|reason| local.contains(reason));
            let has_flushed = has_closed && sender.unsent_bytes == 0;
            has_flushed && receiver.closed == Some(CloseReason::PeerClosed)
        });
        if let Some(lost) = lost {
            self.violation(format!("{lost}, and its session has ended in order"));
        }
    }

    /// Records a push that the client at `client` received.
    pub fn push(&self, client: SocketAddr, number: u64) {
        let mut inner = self.lock();
        *inner.counts.entry("push delivered".to_owned()).or_default() += 1;
        let life = inner.sessions.get_mut(&(Side::Client, client));
        let before = life.map_or(number - 1, |life| std::mem::replace(&mut life.push, number));
        drop(inner);
        if before + 1 != number {
            self.violation(format!("push {number} came after {before} at {client}"));
        }
    }

    /// Records the number of bytes that wait in a session of a server.
    pub fn pending(&self, bytes: usize) {
        let mut inner = self.lock();
        inner.most_pending = inner.most_pending.max(bytes);
    }

    /// Returns the most bytes that waited in one session of a server.
    pub fn most_pending(&self) -> usize {
        self.lock().most_pending
    }

    // Sessions: each ends once, with one reason.

    /// Records that a session has opened. `client` is the address of its client.
    pub fn opened(&self, side: Side, client: SocketAddr, peer: IpAddr) {
        self.trace
            .event(format_args!("{side:?} session of {client} opens"));
        self.count(format!("{side:?} session"));
        let life = Life {
            peer,
            opened: self.trace.now(),
            closed: None,
            ended: Duration::MAX,
            unsent_bytes: 0,
            accepted: 0,
            push: 0,
            message: 0,
        };
        if self.lock().sessions.insert((side, client), life).is_some() {
            self.violation(format!("{side:?} session of {client} opened twice"));
        }
    }

    /// Records the end of a session.
    pub fn closed(&self, side: Side, client: SocketAddr, reason: &CloseReason, unsent_bytes: u64) {
        let name = reason.as_str();
        self.trace
            .event(format_args!("{side:?} session of {client} closes: {name}"));
        self.count(format!("{side:?} closed: {name}"));
        let mut inner = self.lock();
        let Some(life) = inner.sessions.get_mut(&(side, client)) else {
            drop(inner);
            return self.violation(format!(
                "{side:?} session of {client} closed before it opened"
            ));
        };
        let twice = life.closed.replace(reason.clone()).is_some();
        (life.ended, life.unsent_bytes) = (self.trace.now(), unsent_bytes);
        drop(inner);
        if twice {
            self.violation(format!("{side:?} session of {client} closed twice"));
        }
    }

    /// Requires that no session is open.
    pub fn require_no_open_sessions(&self) {
        let inner = self.lock();
        let open = inner
            .sessions
            .iter()
            .filter(|(_, life)| life.closed.is_none());
        let first = open.map(|(key, _)| *key).min_by_key(|(_, client)| *client);
        drop(inner);
        if let Some((side, client)) = first {
            self.violation(format!("{side:?} session of {client} never closed"));
        }
    }

    /// Requires that no session closed for one of these reasons.
    pub fn forbid_reasons(&self, forbidden: &[CloseReason]) {
        let inner = self.lock();
        let bad = inner.sessions.iter().filter_map(|(key, life)| {
            let reason = life.closed.as_ref()?;
            forbidden.contains(reason).then(|| (*key, reason.as_str()))
        });
        let first = bad.min_by_key(|((_, client), _)| *client);
        drop(inner);
        if let Some(((side, client), reason)) = first {
            self.violation(format!("{side:?} session of {client} closed as {reason}"));
        }
    }

    /// Requires that the sessions of all clients but one ended without a fault.
    pub fn require_undisturbed(&self, except: IpAddr) {
        let inner = self.lock();
        let disturbed = inner.sessions.iter().filter_map(|(key, life)| {
            let reason = life.closed.as_ref()?;
            let is_orderly = matches!(reason, CloseReason::Local | CloseReason::PeerClosed);
            (key.1.ip() != except && !is_orderly).then(|| (*key, reason.as_str()))
        });
        let first = disturbed.min_by_key(|((_, client), _)| *client);
        drop(inner);
        if let Some(((side, client), reason)) = first {
            self.violation(format!(
                "{side:?} session of {client}, without a fault, closed as {reason}"
            ));
        }
    }

    /// Records that `peer` went silent. Sessions to it that are open now must end
    /// within `limit`.
    pub fn silent(&self, peer: IpAddr, limit: Duration) {
        let since = self.trace.now();
        let until = since + limit;
        self.lock().silent.push(Silent { peer, since, until });
    }

    /// Checks the sessions to silent peers whose time is over.
    pub fn check_silent(&self) {
        let now = self.trace.now();
        let mut inner = self.lock();
        let Inner {
            silent, sessions, ..
        } = &mut *inner;
        let mut first = None;
        silent.retain(|entry| {
            if now < entry.until {
                return true;
            }
            let late = sessions.iter().filter(|(_, life)| {
                life.peer == entry.peer && life.opened < entry.since && life.closed.is_none()
            });
            first = first.or(late.map(|(key, _)| *key).min_by_key(|(_, client)| *client));
            false
        });
        drop(inner);
        if let Some((side, client)) = first {
            self.violation(format!(
                "{side:?} session of {client} did not notice its dead peer"
            ));
        }
    }

    // Dials: spread, and not too many.

    /// Records a dial of a client.
    pub fn dial(&self, client: usize) {
        let now = self.trace.now();
        self.lock().dials.push((client, now));
        self.count("dial");
    }

    /// Returns the dials from `begin` on.
    pub fn dials_since(&self, begin: Duration) -> Vec<(usize, Duration)> {
        let inner = self.lock();
        inner
            .dials
            .iter()
            .filter(|dial| dial.1 >= begin)
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence of events that breaks a rule, with a part of the report.
    type Breach = (&'static str, fn(&Ledger));

    fn client(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

    /// Opens a session and lets time pass.
    fn opened_later(ledger: &Ledger) {
        for side in [Side::Client, Side::Server] {
            ledger.opened(side, client(1), SERVER);
        }
        ledger.trace().set_now(Duration::from_secs(1));
    }

    const BREACHES: [Breach; 25] = [
        ("began twice", |l| (0..2).for_each(|_| l.begin(1))),
        ("never sent", |l| l.executed(1)),
        ("executed twice", |l| {
            l.begin(1);
            (0..2).for_each(|_| l.executed(1));
        }),
        ("executed after `NotSent`", |l| {
            l.begin(1);
            l.failed(1, Delivery::NotSent);
            l.executed(1);
        }),
        ("executed and is `NotSent`", |l| {
            l.begin(1);
            l.executed(1);
            l.failed(1, Delivery::NotSent);
        }),
        ("got the response to 2", |l| {
            l.begin(1);
            l.executed(1);
            l.answered(0, 1, 2);
        }),
        ("answered and not executed", |l| {
            l.begin(1);
            l.answered(0, 1, 1);
        }),
        ("ended twice", |l| {
            l.begin(1);
            l.dropped(1);
            l.failed(1, Delivery::Unknown);
        }),
        ("neither got a response nor failed", |l| {
            l.begin(1);
            l.require_no_open_calls();
        }),
        ("executed and ended as", |l| {
            l.begin(1);
            l.executed(1);
            l.failed(1, Delivery::Sent);
            l.require_executed_are_answered();
        }),
        ("delivered twice", |l| {
            l.opened(Side::Server, client(1), SERVER);
            (0..2).for_each(|_| l.message(client(1), 1));
        }),
        ("returned as unsent, then delivered", |l| {
            l.unsent(1);
            l.message(client(1), 1);
        }),
        ("delivered and returned as unsent", |l| {
            l.message(client(1), 1);
            l.unsent(1);
        }),
        ("came after 2 on one session", |l| {
            l.opened(Side::Server, client(1), SERVER);
            l.message(client(1), 2);
            l.message(client(1), 1);
        }),
        ("push 3 came after 1", |l| {
            l.opened(Side::Client, client(1), SERVER);
            l.push(client(1), 1);
            l.push(client(1), 3);
        }),
        ("which lost it before 7", |l| {
            opened_later(l);
            l.sent(client(1).ip(), 6, l.trace().now());
            l.sent(client(1).ip(), 7, l.trace().now());
            l.message(client(1), 7);
        }),
        (
            "message 6 of 192.0.2.1:1 was sent and has not arrived",
            |l| {
                opened_later(l);
                l.sent(client(1).ip(), 6, l.trace().now());
                l.violation(l.undelivered().unwrap_or_default());
            },
        ),
        ("push 2 to 192.0.2.1:1 was accepted, and 1 arrived", |l| {
            opened_later(l);
            l.accepted(client(1), 2);
            l.push(client(1), 1);
            l.violation(l.undelivered().unwrap_or_default());
        }),
        ("and its session has ended in order", |l| {
            opened_later(l);
            l.accepted(client(1), 1);
            l.closed(Side::Server, client(1), &CloseReason::Shutdown, 0);
            l.closed(Side::Client, client(1), &CloseReason::PeerClosed, 0);
            l.require_orderly_ends_deliver();
        }),
        ("closed before it opened", |l| {
            l.closed(Side::Client, client(1), &CloseReason::Local, 0);
        }),
        ("closed twice", |l| {
            l.opened(Side::Client, client(1), SERVER);
            (0..2).for_each(|_| l.closed(Side::Client, client(1), &CloseReason::Local, 0));
        }),
        ("never closed", |l| {
            l.opened(Side::Client, client(1), SERVER);
            l.require_no_open_sessions();
        }),
        ("closed as io", |l| {
            l.opened(Side::Client, client(1), SERVER);
            l.closed(Side::Client, client(1), &CloseReason::Io, 0);
            l.forbid_reasons(&[CloseReason::Io]);
        }),
        ("without a fault", |l| {
            l.opened(Side::Client, client(1), SERVER);
            l.closed(Side::Client, client(1), &CloseReason::Io, 0);
            l.require_undisturbed(SERVER);
        }),
        ("did not notice its dead peer", |l| {
            l.opened(Side::Client, client(1), SERVER);
            l.trace().set_now(Duration::from_secs(1));
            l.silent(SERVER, Duration::from_secs(1));
            l.trace().set_now(Duration::from_secs(2));
            l.check_silent();
        }),
    ];

    #[test]
    fn each_rule_is_reported_when_it_is_broken() {
        for (part, breach) in BREACHES {
            let ledger = Ledger::new(Trace::new(false));
            breach(&ledger);
            let broken = ledger.broken().unwrap_or_default();
            assert!(broken.contains(part), "`{broken}` instead of `{part}`");
        }
    }

    #[test]
    fn messages_may_be_lost_with_their_session() {
        let ledger = Ledger::new(Trace::new(false));
        let begun = ledger.trace().now();
        opened_later(&ledger);
        // the attempt began before this session, so an earlier one may have sent it
        ledger.sent(client(1).ip(), 1, begun);
        ledger.sent(client(1).ip(), 2, ledger.trace().now());
        ledger.message(client(1), 2);
        // these are lost by a reset
        ledger.sent(client(1).ip(), 3, ledger.trace().now());
        ledger.accepted(client(1), 5);
        for side in [Side::Client, Side::Server] {
            ledger.closed(side, client(1), &CloseReason::Io, 0);
        }
        assert_eq!(ledger.undelivered(), None);
        ledger.require_orderly_ends_deliver();
        assert_eq!(ledger.broken(), None);
    }

    #[test]
    fn an_orderly_run_breaks_no_rule() {
        let ledger = Ledger::new(Trace::new(false));
        for side in [Side::Client, Side::Server] {
            ledger.opened(side, client(1), SERVER);
        }
        ledger.begin(1);
        ledger.executed(1);
        ledger.answered(0, 1, 1);
        ledger.begin(2);
        ledger.executed(2);
        ledger.dropped(2);
        ledger.unsent(3);
        ledger.message(client(1), 4);
        ledger.trace().set_now(Duration::from_millis(1));
        ledger.sent(client(1).ip(), 5, ledger.trace().now());
        ledger.accepted(client(1), 2);
        assert!(ledger.undelivered().is_some());
        ledger.message(client(1), 5);
        ledger.push(client(1), 1);
        ledger.push(client(1), 2);
        assert_eq!(ledger.undelivered(), None);
        ledger.silent(SERVER, Duration::from_secs(1));
        for side in [Side::Client, Side::Server] {
            ledger.closed(side, client(1), &CloseReason::Local, 0);
        }
        ledger.trace().set_now(Duration::from_secs(2));
        ledger.check_silent();
        ledger.require_no_open_calls();
        ledger.require_no_open_sessions();
        ledger.require_executed_are_answered();
        ledger.require_orderly_ends_deliver();
        ledger.require_undisturbed(SERVER);
        ledger.forbid_reasons(&[CloseReason::Io]);
        assert_eq!(ledger.broken(), None);
        assert!(!ledger.has_open_calls());
        assert_eq!(ledger.answers(0), 1);
    }
}
