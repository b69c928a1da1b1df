//! The rooms of the chat: the people in them, their names, and the commands.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use getty::{Closed, Group, IntoReply, Reply, Session, Topics};

use crate::text::{
    HELP, LOBBY, Line, MAX_TEXT, check_name, list_names, notice, without_control_characters,
};

/// All rooms of the server. Clones share the same rooms.
#[derive(Clone, Debug)]
pub(crate) struct Rooms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// It is locked during broadcasts, so that all people receive the lines in the same order. A
    /// broadcast never waits, so the lock is held for a short time only.
    state: Mutex<State>,
    /// All sessions.
    all: Group<Line>,
    /// The sessions of each room, by the room's name.
    rooms: Topics<Line, Line>,
}

#[derive(Debug, Default)]
struct State {
    /// People by the id of their session.
    people: HashMap<u64, Person>,
    /// Names in use, in lower case: `Ada` and `ada` cannot both be in use.
    names: HashSet<String>,
    /// Number of guest names that were tried.
    guests: u64,
    /// Number of closed sessions for each reason.
    close_counts: BTreeMap<&'static str, usize>,
    /// `true` once the server shuts down.
    closing: bool,
}

#[derive(Debug)]
struct Person {
    name: Line,
    room: Line,
    /// `true` if the person also receives their own lines, as a confirmation for programs.
    echo: bool,
}

impl Default for Rooms {
    fn default() -> Self {
        // A slow reader may miss lines and is notified. The other people must not wait for it.
        let notice = |n: u64| format!("* you read too slowly and have missed {n} lines").into();
        Self(Arc::new(Shared {
            state: Mutex::default(),
            all: Group::new(),
            rooms: Topics::builder().with_notice(notice).build(),
        }))
    }
}

impl Rooms {
    /// Adds a new guest to the lobby. The guest is removed when the session closes.
    pub(crate) fn enter(&self, session: &Session<Line>) {
        self.welcome(session);
        // The lock must not be held here: if the session has already closed, the callback runs at
        // once, and it takes the lock.
        let (rooms, id) = (self.clone(), session.id());
        session.add_close_callback("chat", id, move |closed| rooms.remove(id, closed));
    }

    /// Handles a line: sends it to the room or runs its command. The reply is for the sender only.
    pub(crate) fn handle_line(&self, session: &Session<Line>, line: &str) -> Reply<Line> {
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
            "name" => self.rename(session, argument),
            "join" => self.change_room(session, argument),
            "leave" => self.change_room(session, LOBBY),
            "who" => self.list_people(session),
            "echo" => self.turn_echo_on(session),
            "help" => Reply::many(HELP.map(Line::from).into()),
            "quit" => notice("goodbye").and_close(),
            _ => notice(format_args!("unknown command /{command}; try /help")),
        }
    }

    /// Notifies all people that the server shuts down. Returns their number. From now on the people
    /// in a room get no notice when another person leaves.
    pub(crate) fn announce_shutdown(&self) -> usize {
        let mut state = self.lock();
        state.closing = true;
        let line = Line::from("* the server is going down: goodbye");
        self.0.all.broadcast(line);
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

    fn welcome(&self, session: &Session<Line>) {
        let mut state = self.lock();
        let name = state.guest_name();
        let room = Line::from(LOBBY);
        let welcome = format!("* you are {name} in the room {LOBBY}; try /help");
        // This cannot fail with a full queue: the session has just opened.
        let _ = session.try_send(welcome.into());
        self.notify_others(&room, session, format_args!("* {name} is here"));
        self.0.all.join(session);
        self.0.rooms.join(Arc::clone(&room), session);
        let person = Person {
            name,
            room,
            echo: false,
        };
        state.people.insert(session.id(), person);
    }

    /// Removes the person of a closed session. The groups remove the session themselves.
    fn remove(&self, id: u64, closed: &Closed) {
        let mut state = self.lock();
        *state
            .close_counts
            .entry(closed.reason.as_str())
            .or_default() += 1;
        let Some(Person { name, room, .. }) = state.people.remove(&id) else {
            return;
        };
        state.names.remove(&name.to_lowercase());
        if !state.closing {
            let line = format!("* {name} has left").into();
            self.0.rooms.broadcast(&room, line);
        }
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
        self.0.rooms.broadcast_except(&person.room, session, line);
        own.into_reply()
    }

    fn rename(&self, session: &Session<Line>, name: &str) -> Reply<Line> {
        if let Err(error) = check_name(name) {
            return notice(format_args!("invalid name: {error}"));
        }
        let mut state = self.lock();
        let State { people, names, .. } = &mut *state;
        let Some(person) = people.get_mut(&session.id()) else {
            return Reply::none();
        };
        let (old, new) = (person.name.to_lowercase(), name.to_lowercase());
        if old != new && names.contains(&new) {
            return notice(format_args!("the name {name} is taken"));
        }
        names.remove(&old);
        names.insert(new);
        let before = std::mem::replace(&mut person.name, name.into());
        self.notify_others(
            &person.room,
            session,
            format_args!("* {before} is now {name}"),
        );
        notice(format_args!("you are {name} now"))
    }

    fn change_room(&self, session: &Session<Line>, room: &str) -> Reply<Line> {
        if let Err(error) = check_name(room) {
            return notice(format_args!("invalid room: {error}"));
        }
        let mut state = self.lock();
        let Some(person) = state.people.get_mut(&session.id()) else {
            return Reply::none();
        };
        if *person.room == *room {
            return notice(format_args!("you are already in {room}"));
        }
        let (name, rooms) = (&person.name, &self.0.rooms);
        rooms.leave(&person.room, session);
        self.notify_others(
            &person.room,
            session,
            format_args!("* {name} has left for {room}"),
        );
        self.notify_others(room, session, format_args!("* {name} is here"));
        rooms.join(room.into(), session);
        person.room = room.into();
        notice(format_args!("you are in {room} now"))
    }

    fn list_people(&self, session: &Session<Line>) -> Reply<Line> {
        let state = self.lock();
        let Some(Person { room, .. }) = state.people.get(&session.id()) else {
            return Reply::none();
        };
        let members = self.0.rooms.members(room);
        let mut names: Vec<&str> = members
            .iter()
            .filter_map(|member| state.people.get(&member.id()))
            .map(|person| &*person.name)
            .collect();
        names.sort_unstable();
        Reply::many(list_names(room, &names))
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
        self.0.rooms.broadcast_except(room, session, line);
    }
}

impl State {
    /// Returns a guest name that is not in use.
    fn guest_name(&mut self) -> Line {
        loop {
            self.guests += 1;
            let name = format!("guest-{}", self.guests);
            if self.names.insert(name.clone()) {
                return name.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use getty::{
        CloseReason, Connection,
        driver::{self, Driver, Payload},
    };

    use super::*;

    /// A person in the rooms. The test itself drives the session.
    struct Guest {
        rooms: Rooms,
        session: Session<Line>,
        driver: Driver<Line>,
        connection: Connection<()>,
    }

    impl Guest {
        fn enter(rooms: &Rooms) -> Self {
            let connection = Connection::new(());
            let (session, driver) = driver::pair(connection.handle().clone());
            rooms.enter(&session);
            Self {
                rooms: rooms.clone(),
                session,
                driver,
                connection,
            }
        }

        /// Handles a line of this guest and returns the replies.
        fn types(&self, line: &str) -> Vec<Line> {
            self.rooms
                .handle_line(&self.session, line)
                .into_parts()
                .0
                .collect()
        }

        /// Returns the lines that were sent to this guest since the last call.
        fn received(&mut self) -> Vec<Line> {
            self.driver.register(&Context::from_waker(Waker::noop()));
            std::iter::from_fn(|| self.driver.next_outgoing())
                .map(|outgoing| match outgoing.payload {
                    Payload::Message(line) => line,
                    Payload::Shared(line) => line.message(),
                    other => panic!("unexpected payload: {other:?}"),
                })
                .collect()
        }

        fn last_received(&mut self) -> Line {
            self.received().pop().expect("the guest received a line")
        }

        fn disconnects(self) {
            self.connection.handle().close_with(CloseReason::PeerClosed);
        }
    }

    #[test]
    fn line_reaches_all_others_in_the_room_and_no_other_room() {
        let rooms = Rooms::default();
        let (mut one, mut two, mut three) = (
            Guest::enter(&rooms),
            Guest::enter(&rooms),
            Guest::enter(&rooms),
        );
        three.types("/join tea");
        one.received();
        three.received();
        assert!(one.types("hello").is_empty());
        assert_eq!(&*two.last_received(), "guest-1: hello");
        assert!(one.received().is_empty());
        assert!(three.received().is_empty());
    }

    #[test]
    fn name_is_unique_in_any_case_and_free_again_once_its_owner_has_left() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        one.types("/name Ada");
        assert_eq!(*two.types("/name aDA"), ["* the name aDA is taken".into()]);
        one.disconnects();
        assert_eq!(&*two.last_received(), "* Ada has left");
        assert_eq!(*two.types("/name aDA"), ["* you are aDA now".into()]);
    }

    #[test]
    fn guest_gets_a_name_that_is_not_in_use() {
        let rooms = Rooms::default();
        let one = Guest::enter(&rooms);
        one.types("/name guest-2");
        let mut two = Guest::enter(&rooms);
        assert_eq!(
            &*two.last_received(),
            "* you are guest-3 in the room lobby; try /help"
        );
    }

    #[test]
    fn typed_text_cannot_imitate_a_notice_or_control_another_terminal() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        for bad in ["", "a b", "a:b", "*", "abcdefghijklmnopqrstu", "a\u{202e}b"] {
            assert!(
                one.types(&format!("/name {bad}"))[0].starts_with("* invalid name: "),
                "{bad:?}"
            );
        }
        two.received();
        one.types("\x1b[2J\thi\x07\u{9b}");
        assert_eq!(&*two.last_received(), "guest-1: [2J hi");
    }

    #[test]
    fn with_echo_a_person_receives_their_own_line_as_the_others_do() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        assert_eq!(
            *one.types("/echo"),
            ["* you hear your own lines now".into()]
        );
        assert_eq!(*one.types(" hi\x07 "), ["guest-1: hi".into()]);
        assert_eq!(&*two.last_received(), "guest-1: hi");
        assert!(two.types("hi").is_empty());
    }

    #[test]
    fn slow_reader_gets_the_number_of_missed_lines() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        two.received();
        two.driver.set_backpressure(true);
        two.driver.set_queue_bytes(1000);
        for n in 0..100 {
            one.types(&n.to_string());
        }
        let missed = 100 - two.received().len();
        assert!(missed > 0);
        two.driver.set_backpressure(false);
        one.types("after");
        assert_eq!(
            two.received(),
            [
                format!("* you read too slowly and have missed {missed} lines").into(),
                Line::from("guest-1: after")
            ]
        );
    }
}
