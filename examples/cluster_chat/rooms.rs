//! The rooms of the chat on all nodes: the people in them, their names, and the commands.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use getty::{BoxError, CloseReason, Closed, Group, IntoReply, Reply, Session};
use getty_cluster::{ClaimError, Claims, Cluster, ClusterTopics, form::Plain};

use crate::text::{
    HELP, LOBBY, Line, MAX_TEXT, check_name, list_names, notice, without_control_characters,
};

/// Maximum time to wait for other nodes.
const NODES_TIME: Duration = Duration::from_secs(1);

/// All rooms of the cluster, with the people of this node. Clones share the same rooms.
#[derive(Clone, Debug)]
pub(crate) struct Rooms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// It is locked while lines are sent, so that all people of this node receive its lines in the
    /// same order. A broadcast never waits, so the lock is held for a short time only.
    state: Mutex<State>,
    /// The sessions of this node.
    all: Group<Line>,
    /// The sessions of each room on all nodes, by the room's name. Their cards are the names.
    rooms: ClusterTopics<Line, Line>,
    /// Names in use on all nodes, in lower case: `Ada` and `ada` cannot both be in use.
    names: Claims,
    /// Name of this node.
    node: String,
}

#[derive(Debug, Default)]
struct State {
    /// People of this node by the id of their session.
    people: HashMap<u64, Person>,
    /// Number of guests.
    guests: u64,
    /// Number of closed sessions for each reason.
    close_counts: BTreeMap<&'static str, usize>,
}

#[derive(Debug)]
struct Person {
    name: Line,
    room: Line,
    /// `true` if the person also receives their own lines, as a confirmation for programs.
    echo: bool,
}

impl Rooms {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        // The person reads too slowly, or the bus has lost lines of other nodes.
        let notice = |n: u64| format!("* you have missed {n} lines").into();
        let rooms = cluster.topics_builder("rooms", Plain).with_notice(notice);
        // The node was cut off, and the name of the person was given to another one meanwhile.
        let names = cluster
            .claims_builder("names")
            .with_lost_hook(|lost| lost.session.close_with(CloseReason::TakenOver));
        Self(Arc::new(Shared {
            state: Mutex::default(),
            all: Group::new(),
            rooms: rooms.build(),
            names: names.build(),
            node: cluster.name().to_owned(),
        }))
    }

    /// Adds a new guest to the lobby. The guest is removed when the session closes.
    pub(crate) async fn enter(self, session: Session<Line>) -> Result<(), BoxError> {
        let name = self.add_guest(&session);
        // The lock must not be held here: if the session has already closed, the callback runs at
        // once, and it takes the lock.
        let (rooms, id) = (self.clone(), session.id());
        session.add_close_callback("chat", id, move |closed| rooms.remove(id, closed));
        self.join(LOBBY, &session, &name).await;
        let welcome = format!("* you are {name} in the room {LOBBY}; try /help");
        // This cannot fail with a full queue: the session has just opened.
        let _ = session.try_send(welcome.into());
        Ok(())
    }

    /// Handles a line: sends it to the room or runs its command. The reply is for the sender only.
    pub(crate) async fn handle_line(&self, session: &Session<Line>, line: &str) -> Reply<Line> {
        let line = without_control_characters(line);
        let line = line.trim();
        if line.is_empty() {
            return Reply::none();
        }
        let Some(command) = line.strip_prefix('/') else {
            return self.send_to_room(session, line);
        };
        let (command, argument) = command
            .split_once(char::is_whitespace)
            .map_or((command, ""), |(command, rest)| (command, rest.trim()));
        match command {
            "name" => self.rename(session, argument).await,
            "join" => self.change_room(session, argument).await,
            "leave" => self.change_room(session, LOBBY).await,
            "who" => self.list_people(session).await,
            "echo" => self.turn_echo_on(session),
            "help" => Reply::many(HELP.map(Line::from).into()),
            "quit" => notice("goodbye").and_close(),
            _ => notice(format_args!("unknown command /{command}; try /help")),
        }
    }

    /// Notifies all people of this node that it shuts down. Returns their number.
    pub(crate) fn announce_shutdown(&self) -> usize {
        let state = self.lock();
        let line = Line::from("* the server is going down: goodbye");
        self.0.all.broadcast(line);
        // From now on the notices that a person has left are for the other nodes only.
        for session in self.0.all.members() {
            self.0.rooms.leave_all(&session);
        }
        state.people.len()
    }

    /// Returns the number of closed sessions, in total and for each reason.
    pub(crate) fn close_counts(&self) -> String {
        let state = self.lock();
        let total: usize = state.close_counts.values().sum();
        let each = state
            .close_counts
            .iter()
            .map(|(reason, n)| format!(", {reason} {n}"));
        total.to_string() + &each.collect::<String>()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the name and the room of a person.
    fn person(&self, session: &Session<Line>) -> Option<(Line, Line)> {
        let state = self.lock();
        let person = state.people.get(&session.id())?;
        Some((Arc::clone(&person.name), Arc::clone(&person.room)))
    }

    fn add_guest(&self, session: &Session<Line>) -> Line {
        let mut state = self.lock();
        state.guests += 1;
        // A name that a person chooses has no `@`, so this one needs no claim.
        let name = Line::from(format!("guest-{}@{}", state.guests, self.0.node));
        let room = Line::from(LOBBY);
        self.notify_others(&room, session, format_args!("* {name} is here"));
        self.0.all.join(session);
        let person = Person {
            name: Arc::clone(&name),
            room,
            echo: false,
        };
        state.people.insert(session.id(), person);
        name
    }

    /// Adds a person to a room, and waits until lines of other nodes arrive.
    async fn join(&self, room: &str, session: &Session<Line>, name: &str) {
        self.0.rooms.join_as(room.into(), session, name);
        // While the bus is away, there are the lines of this node.
        self.0.rooms.subscribed(room, NODES_TIME).await;
    }

    /// Removes the person of a closed session. The topics and claims remove the session themselves.
    fn remove(&self, id: u64, closed: &Closed) {
        let mut state = self.lock();
        *state
            .close_counts
            .entry(closed.reason.as_str())
            .or_default() += 1;
        let Some(Person { name, room, .. }) = state.people.remove(&id) else {
            return;
        };
        let line = format!("* {name} has left").into();
        let _ = self.0.rooms.broadcast(&room, line);
    }

    fn send_to_room(&self, session: &Session<Line>, text: &str) -> Reply<Line> {
        if text.len() > MAX_TEXT {
            return notice(format_args!(
                "not sent: the line has {} bytes, the maximum is {MAX_TEXT}",
                text.len()
            ));
        }
        let state = self.lock();
        let Some(person) = state.people.get(&session.id()) else {
            return Reply::none();
        };
        let line = Line::from(format!("{}: {text}", person.name));
        let own = person.echo.then(|| Arc::clone(&line));
        // People on other nodes who miss the line are notified, so its sender need not be.
        let _ = self.0.rooms.broadcast_except(&person.room, session, line);
        own.into_reply()
    }

    async fn rename(&self, session: &Session<Line>, name: &str) -> Reply<Line> {
        if let Err(error) = check_name(name) {
            return notice(format_args!("invalid name: {error}"));
        }
        // A name that this person has is not taken.
        match self.0.names.take_free(&name.to_lowercase(), session).await {
            Ok(()) => {}
            Err(ClaimError::Taken) => return notice(format_args!("the name {name} is taken")),
            Err(error) => return notice(format_args!("you keep your name: {error}")),
        }
        let mut state = self.lock();
        let Some(person) = state.people.get_mut(&session.id()) else {
            return Reply::none();
        };
        let before = std::mem::replace(&mut person.name, name.into());
        if before.to_lowercase() != name.to_lowercase() {
            self.0.names.release(&before.to_lowercase(), session);
        }
        let room = &person.room;
        self.notify_others(room, session, format_args!("* {before} is now {name}"));
        self.0.rooms.join_as(Arc::clone(room), session, name);
        notice(format_args!("you are {name} now"))
    }

    async fn change_room(&self, session: &Session<Line>, room: &str) -> Reply<Line> {
        if let Err(error) = check_name(room) {
            return notice(format_args!("invalid room: {error}"));
        }
        let Some((name, old)) = self.person(session) else {
            return Reply::none();
        };
        if *old == *room {
            return notice(format_args!("you are already in {room}"));
        }
        self.0.rooms.leave(&old, session);
        self.notify_others(&old, session, format_args!("* {name} has left for {room}"));
        self.notify_others(room, session, format_args!("* {name} is here"));
        if let Some(person) = self.lock().people.get_mut(&session.id()) {
            person.room = room.into();
        }
        self.join(room, session, &name).await;
        notice(format_args!("you are in {room} now"))
    }

    async fn list_people(&self, session: &Session<Line>) -> Reply<Line> {
        let Some((_, room)) = self.person(session) else {
            return Reply::none();
        };
        let answers = self.0.rooms.ask(&room, NODES_TIME).await;
        let mut names: Vec<&str> = answers.members.iter().map(|member| &*member.card).collect();
        names.sort_unstable();
        let mut lines = list_names(&room, &names);
        for node in &answers.missing {
            lines.push(format!("* no answer from node {}", node.name).into());
        }
        Reply::many(lines)
    }

    fn turn_echo_on(&self, session: &Session<Line>) -> Reply<Line> {
        if let Some(person) = self.lock().people.get_mut(&session.id()) {
            person.echo = true;
        }
        notice("you hear your own lines now")
    }

    /// Sends a notice about `session` to all other people in `room`.
    fn notify_others(&self, room: &str, session: &Session<Line>, line: fmt::Arguments<'_>) {
        let line = line.to_string().into();
        let _ = self.0.rooms.broadcast_except(room, session, line);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use getty::{
        CloseReason, Connection,
        driver::{self, Driver, Payload},
    };
    use getty_cluster::bus::Memory;

    use super::*;

    /// Two nodes of one chat.
    struct Nodes {
        rooms: [Rooms; 2],
        /// Bus of the first node.
        bus: Memory,
        clusters: [Cluster; 2],
    }

    impl Nodes {
        async fn start() -> Self {
            let bus = Memory::new();
            let clusters = [("one", bus.same_node()), ("two", bus.clone())]
                .map(|(name, bus)| Cluster::of("chat").named(name).over(bus).start());
            for cluster in &clusters {
                cluster.up().await;
                until(|| cluster.nodes().len() == 1).await;
            }
            Self {
                rooms: clusters.each_ref().map(Rooms::new),
                bus,
                clusters,
            }
        }

        /// Adds a guest to each node.
        async fn guests(&self) -> [Guest; 2] {
            let mut guests = [
                Guest::enter(&self.rooms[0]).await,
                Guest::enter(&self.rooms[1]).await,
            ];
            guests[0].hears("* guest-1@two is here").await;
            guests[1].hears(WELCOME_TO_TWO).await;
            guests
        }
    }

    const WELCOME_TO_TWO: &str = "* you are guest-1@two in the room lobby; try /help";

    /// A person in the rooms. The test itself drives the session.
    struct Guest {
        rooms: Rooms,
        session: Session<Line>,
        driver: Driver<Line>,
        connection: Connection<()>,
        received: Vec<String>,
    }

    impl Guest {
        async fn enter(rooms: &Rooms) -> Self {
            let connection = Connection::new(());
            let (session, driver) = driver::pair(connection.handle().clone());
            let entered = rooms.clone().enter(session.clone()).await;
            entered.unwrap();
            Self {
                rooms: rooms.clone(),
                session,
                driver,
                connection,
                received: Vec::new(),
            }
        }

        /// Handles a line of this guest and returns the replies, with line breaks between them.
        async fn types(&self, line: &str) -> String {
            let reply = self.rooms.handle_line(&self.session, line).await;
            let lines: Vec<_> = reply.into_parts().0.collect();
            lines.join("\n")
        }

        fn disconnects(self, reason: CloseReason) {
            self.connection.handle().close_with(reason);
        }

        /// Waits for a line. Those before it stay in `received`.
        async fn hears(&mut self, line: &str) {
            for _ in 0..10_000 {
                self.driver.register(&Context::from_waker(Waker::noop()));
                while let Some(outgoing) = self.driver.next_outgoing() {
                    let received = match outgoing.payload {
                        Payload::Message(line) => line,
                        Payload::Shared(line) => line.message(),
                        other => panic!("unexpected payload: {other:?}"),
                    };
                    if *received == *line {
                        self.driver.set_backpressure(false);
                        return;
                    }
                    self.received.push(received.to_string());
                }
                self.driver.set_backpressure(false);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            panic!("{line:?} is not among {:?}", self.received);
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn line_reaches_the_people_of_other_nodes_in_the_room_and_in_no_other() {
        let nodes = Nodes::start().await;
        let [one, mut two] = nodes.guests().await;
        let mut three = Guest::enter(&nodes.rooms[1]).await;
        three.types("/join tea").await;
        one.types("hello").await;
        two.hears("guest-1@one: hello").await;
        one.types("/join tea").await;
        one.types("hello tea").await;
        three.hears("guest-1@one: hello tea").await;
        let hello = "guest-1@one: hello".to_owned();
        assert!(!three.received.contains(&hello), "{:?}", three.received);
    }

    #[tokio::test]
    async fn name_is_unique_on_all_nodes_in_any_case_and_free_again_once_its_owner_has_left() {
        let nodes = Nodes::start().await;
        let [one, mut two] = nodes.guests().await;
        assert_eq!(one.types("/name Ada").await, "* you are Ada now");
        let taken = "* the name aDA is taken";
        assert_eq!(two.types("/name aDA").await, taken);
        let free = "* you are aDA now";
        assert_eq!(one.types("/name ada").await, "* you are ada now");
        assert_eq!(one.types("/name Eve").await, "* you are Eve now");
        assert_eq!(two.types("/name aDA").await, free);
        assert_eq!(two.types("/name Bob").await, "* you are Bob now");
        one.disconnects(CloseReason::PeerClosed);
        two.hears("* Eve has left").await;
        until_replied(&two, "/name eve", "* you are eve now").await;
    }

    /// Types a command until it has this reply.
    async fn until_replied(guest: &Guest, command: &str, reply: &str) {
        for _ in 0..1000 {
            if guest.types(command).await == reply {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{reply:?} is not the reply to {command:?}");
    }

    #[tokio::test]
    async fn who_lists_the_people_of_all_nodes_with_their_names() {
        let nodes = Nodes::start().await;
        let [one, two] = nodes.guests().await;
        two.types("/name Ada").await;
        let names = "* in lobby: Ada, guest-1@one";
        assert_eq!(one.types("/who").await, names);
        two.types("/join tea").await;
        let names = "* in lobby: guest-1@one";
        assert_eq!(one.types("/who").await, names);
    }

    #[tokio::test]
    async fn people_are_notified_of_the_lines_that_they_have_missed() {
        let nodes = Nodes::start().await;
        let [one, mut two] = nodes.guests().await;
        one.types("before").await;
        two.hears("guest-1@one: before").await;
        nodes.bus.set_connected(false);
        nodes.clusters[0].down().await;
        for n in 0..3 {
            one.types(&n.to_string()).await;
        }
        let names = "* in lobby: guest-1@one\n* no answer from node two";
        assert_eq!(one.types("/who").await, names);
        let reply = one.types("/name Ada").await;
        assert!(reply.starts_with("* you keep your name: "), "{reply:?}");
        nodes.bus.set_connected(true);
        nodes.clusters[0].up().await;
        one.types("after").await;
        two.hears("guest-1@one: after").await;
        assert_eq!(two.received, ["* you have missed 3 lines"]);
    }

    #[tokio::test]
    async fn people_of_other_nodes_see_who_leaves_at_a_shutdown() {
        let nodes = Nodes::start().await;
        let [mut one, mut two] = nodes.guests().await;
        let three = Guest::enter(&nodes.rooms[0]).await;
        assert_eq!(nodes.rooms[0].announce_shutdown(), 2);
        three.disconnects(CloseReason::Shutdown);
        two.hears("* guest-2@one has left").await;
        one.hears("* the server is going down: goodbye").await;
        one.disconnects(CloseReason::Shutdown);
        two.hears("* guest-1@one has left").await;
        assert_eq!(nodes.rooms[0].close_counts(), "2, shutdown 2");
    }
}
