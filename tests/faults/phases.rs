//! A peer that resets the connection or ends its direction, in each phase of a session's life.
//!
//! Both ends are getty's, and a relay between them breaks the connection. One end is the
//! *subject*: it is in the phase. Each end has exactly one close record, with a reason that the
//! table in docs/faults.md promises, and leaves nothing behind.

use std::{fmt, future::Future, sync::atomic::Ordering::SeqCst};

use futures_util::future::join_all;
use getty::{BoxError, CloseReason, Session, SessionTask};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    app::{Address, Kind, Server, Side, Tls, soon, until, woken_tasks},
    relay::{Order, Relay, To, reset_at_once},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was exchanged.
    Accept,
    /// The TLS or WebSocket handshake has begun.
    Handshake,
    /// The open hook waits.
    Opening,
    /// A part of a message has arrived.
    MidFrame,
    Idle,
    /// A handler is at work.
    InFlight,
    /// The subject has requested a close and a handler is at work.
    Draining,
    /// The subject waits for the peer's answer to its close.
    Closing,
}

const PHASES: [Phase; 8] = [
    Phase::Accept,
    Phase::Handshake,
    Phase::Opening,
    Phase::MidFrame,
    Phase::Idle,
    Phase::InFlight,
    Phase::Draining,
    Phase::Closing,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Reset,
    /// The peer's direction ends, without `close_notify` or a close frame.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

#[derive(Clone, Copy)]
struct Cell {
    kind: Kind,
    phase: Phase,
    fault: Fault,
    role: Role,
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            phase,
            fault,
            role,
        } = self;
        write!(f, "{fault:?} of a {role:?} over {kind:?} in {phase:?}")
    }
}

/// A connection of a cell: both sides, and the task that opens the client's session.
struct Pair {
    subject: Side,
    other: Side,
    relay: Relay,
    client: JoinHandle<Result<(Session<String>, SessionTask), BoxError>>,
}

impl Cell {
    fn to_subject(self) -> To {
        match self.role {
            Role::Server => To::Server,
            Role::Client => To::Client,
        }
    }

    fn fault(self) -> Order {
        match self.fault {
            Fault::Reset => Order::Reset,
            Fault::Finish => Order::Finish(self.to_subject()),
        }
    }

    async fn run(self, tls: &Tls) {
        let (subject, other) = (Side::new(), Side::new());
        let (server_side, client_side) = match self.role {
            Role::Server => (&subject, &other),
            Role::Client => (&other, &subject),
        };
        let server = Server::new(self.kind, server_side, tls).await;
        let relay = Relay::new(&server.address).await;
        if self.phase == Phase::Opening {
            subject.close_gates(true, false);
        }
        if matches!(self.phase, Phase::InFlight | Phase::Draining) {
            subject.close_gates(false, true);
        }
        match self.phase {
            Phase::Accept => relay.order(self.fault()),
            Phase::Handshake => relay.order(Order::Limit(self.to_subject(), 5)),
            _ => {}
        }
        let mut accepts = 1;
        if self.phase == Phase::Accept
            && self.fault == Fault::Reset
            && let (Role::Server, Address::Ip(address)) = (self.role, &server.address)
        {
            reset_at_once(*address).await.unwrap();
            accepts += 1;
        }
        let (address, side) = (relay.address.clone(), client_side.clone());
        // The server outlives the cell, so both can be shared with the client's task.
        let server = std::sync::Arc::new(server);
        let dialling = std::sync::Arc::clone(&server);
        let client = tokio::spawn(async move { dialling.connect(&address, &side).await });
        let mut pair = Pair {
            subject,
            other,
            relay,
            client,
        };
        let session = self.reach(&mut pair).await;
        pair.relay.order(self.fault());
        self.after(&pair, session).await;
        // The kernel may keep a connection until after the fault.
        let server_side = match self.role {
            Role::Server => &pair.subject,
            Role::Client => &pair.other,
        };
        server_side.until(|side| side.started() == accepts).await;
        self.end(pair).await;
        let Ok(server) = std::sync::Arc::try_unwrap(server) else {
            panic!("{self:?}: the dial goes on");
        };
        server.stop().await;
    }

    /// Brings the subject into its phase. Returns its session if both ends are open.
    async fn reach(self, pair: &mut Pair) -> Option<Session<String>> {
        let Pair {
            subject,
            other,
            relay,
            ..
        } = pair;
        match self.phase {
            Phase::Accept => return None,
            Phase::Handshake => {
                if self.kind.is_tls() || self.kind.is_ws() {
                    relay.held(self.to_subject()).await;
                }
                return None;
            }
            Phase::Opening => {
                subject.until(|side| side.opening.load(SeqCst) == 1).await;
                return None;
            }
            _ => {}
        }
        // Both ends are open and have greeted.
        for side in [&*subject, &*other] {
            assert_eq!(side.hear().await, "!opened");
            assert_eq!(side.hear().await, "!kept");
        }
        let ours = soon(async { subject.sessions.all().pop().unwrap() }).await;
        let theirs = soon(async { other.sessions.all().pop().unwrap() }).await;
        match self.phase {
            Phase::MidFrame => {
                relay.order(Order::Limit(self.to_subject(), 7));
                let received = ours.stats().bytes_in;
                theirs
                    .try_send("?a message that stops early".to_owned())
                    .unwrap();
                relay.held(self.to_subject()).await;
                if !self.kind.is_tls() {
                    // Of a TLS record no byte is seen before its end.
                    let arrived = || ours.stats().bytes_in > received || self.kind.is_ws();
                    until(arrived).await;
                }
            }
            Phase::InFlight | Phase::Draining => {
                theirs.try_send("?work".to_owned()).unwrap();
                subject.until(|side| side.working.load(SeqCst) == 1).await;
                if self.phase == Phase::Draining {
                    ours.close();
                    woken_tasks().await;
                    assert!(!ours.is_closed(), "{self:?}");
                }
            }
            Phase::Closing => {
                relay.order(Order::Limit(self.to_subject(), 0));
                relay.held(self.to_subject()).await;
                ours.close();
                woken_tasks().await;
                assert!(!ours.is_closed(), "{self:?}");
            }
            _ => {}
        }
        Some(ours)
    }

    /// Lets open hooks and handlers continue, and checks what still reaches the peer.
    async fn after(self, pair: &Pair, session: Option<Session<String>>) {
        pair.relay.carried_out().await;
        if self.phase == Phase::InFlight
            && let Some(session) = session
        {
            // The subject notices the fault while its handler waits.
            soon(session.peer_finished()).await;
        }
        let is_open = pair.subject.records().is_empty();
        pair.subject.open_gates();
        // A half-close is not a failure: the peer still receives its reply.
        if self.fault == Fault::Finish
            && self.phase == Phase::InFlight
            && !self.kind.is_tls()
            && !self.kind.is_ws()
        {
            assert!(is_open, "{self:?}");
            assert_eq!(pair.other.hear().await, "!work", "{self:?}");
        }
    }

    async fn end(self, pair: Pair) {
        let Pair {
            subject,
            other,
            relay,
            client,
        } = pair;
        subject.settle(&self).await;
        // A peer that does not see the end closes by itself.
        for session in other.sessions.all() {
            session.close();
        }
        other.settle(&self).await;
        let opened = soon(client).await.unwrap();
        relay.task.abort();
        for record in subject.records() {
            let reason = &record.reason;
            assert!(
                self.promises(reason),
                "{self:?} ended as {reason:?}: {record}"
            );
        }
        if let Ok((session, task)) = opened {
            let closed = soon(task).await.unwrap();
            let records = match self.role {
                Role::Server => other.reasons(),
                Role::Client => subject.reasons(),
            };
            assert!(records.contains(&closed.reason), "{self:?}");
            assert!(session.try_send("late".to_owned()).is_err(), "{self:?}");
        }
    }

    /// Returns `true` if the contract permits `reason` for the subject.
    fn promises(self, reason: &CloseReason) -> bool {
        let is_lost = matches!(reason, CloseReason::Protocol { code: 1006, .. });
        match self.phase {
            // The connection may be gone before it is accepted, or its end may arrive first.
            Phase::Accept | Phase::Opening => {
                is_lost
                    || matches!(
                        reason,
                        CloseReason::Io | CloseReason::PeerClosed | CloseReason::Refused
                    )
            }
            Phase::Handshake if !self.kind.is_tls() && !self.kind.is_ws() => {
                // There is no handshake: a part of the first message has arrived.
                matches!(reason, CloseReason::Io | CloseReason::PeerClosed)
            }
            Phase::Handshake => *reason == CloseReason::Refused,
            Phase::Draining | Phase::Closing => *reason == CloseReason::Local,
            Phase::MidFrame | Phase::Idle | Phase::InFlight => match self.fault {
                Fault::Reset if self.kind == Kind::Unix => {
                    // A relay that has read everything cannot reset a Unix socket.
                    is_lost || matches!(reason, CloseReason::Io | CloseReason::PeerClosed)
                }
                Fault::Reset => is_lost || *reason == CloseReason::Io,
                Fault::Finish if self.kind.is_ws() => is_lost || *reason == CloseReason::Io,
                Fault::Finish if self.kind.is_tls() => *reason == CloseReason::Io,
                Fault::Finish => *reason == CloseReason::PeerClosed,
            },
        }
    }
}

/// Runs all cells of a kind at once. Returns nothing to the runtime that was not there before.
async fn run(kind: Kind, fault: Fault) {
    let tls = Tls::new();
    let tasks = Handle::current().metrics().num_alive_tasks();
    let cells = PHASES.into_iter().flat_map(|phase| {
        [Role::Server, Role::Client].map(|role| Cell {
            kind,
            phase,
            fault,
            role,
        })
    });
    let tls = &tls;
    let cells = cells.map(|cell| async move {
        if tokio::time::timeout(std::time::Duration::from_secs(90), cell.run(tls))
            .await
            .is_err()
        {
            panic!("{cell:?} does not end");
        }
    });
    join_all(cells).await;
    until(|| Handle::current().metrics().num_alive_tasks() <= tasks).await;
}

fn on_a_thread<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

macro_rules! phases {
    ($($reset:ident, $finish:ident: $kind:expr;)*) => {$(
        #[test]
        fn $reset() {
            on_a_thread(run($kind, Fault::Reset));
        }

        #[test]
        fn $finish() {
            on_a_thread(run($kind, Fault::Finish));
        }
    )*};
}

phases! {
    reset_in_each_phase_over_tcp, half_close_in_each_phase_over_tcp: Kind::Tcp;
    reset_in_each_phase_over_tls, half_close_in_each_phase_over_tls: Kind::Tls;
    reset_in_each_phase_over_ws, half_close_in_each_phase_over_ws: Kind::Ws;
    reset_in_each_phase_over_wss, half_close_in_each_phase_over_wss: Kind::Wss;
}

phases! {
    reset_in_each_phase_over_unix, half_close_in_each_phase_over_unix: Kind::Unix;
}
