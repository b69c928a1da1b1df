//! Who is in which room, what they are called, and who hears what.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use getty::{Closed, Reply, SendError, Session};

/// What is sent: made once for all who get it.
pub(crate) type Line = Arc<str>;

const LOBBY: &str = "lobby";
/// In characters, for names of people and rooms.
const LONGEST_NAME: usize = 20;
/// In bytes, for what people type.
const LONGEST_TEXT: usize = 1024;
/// How many names `/who` puts in a line.
const NAMES_A_LINE: usize = 50;

const HELP: [&str; 8] = [
    "* what you type goes to everybody in your room",
    "* /name NAME   be called so",
    "* /join ROOM   go to a room, which is made if need be",
    "* /leave       go back to the lobby",
    "* /who         see who is in your room",
    "* /echo        hear your own lines, too, as the others do",
    "* /quit        hang up",
    "* /help        see this",
];

/// All rooms of the server. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rooms(Arc<Mutex<State>>);

/// Nothing in here waits while it is locked: lines are queued with `try_send` or dropped.
#[derive(Debug, Default)]
struct State {
    people: HashMap<u64, Person>,
    rooms: BTreeMap<Line, BTreeSet<u64>>,
    /// In lower case, so that nobody passes for another.
    names: HashSet<String>,
    guests: u64,
    endings: BTreeMap<&'static str, usize>,
    closing: bool,
}

#[derive(Debug)]
struct Person {
    session: Session<Line>,
    name: Line,
    room: Line,
    /// Whether the person's own lines come back, which tells programs that they have arrived.
    echo: bool,
    /// Lines dropped since the last one that was queued.
    missed: u64,
}

impl Rooms {
    /// Puts a new guest into the lobby until the session ends.
    pub(crate) fn enter(&self, session: &Session<Line>) {
        let id = session.id();
        self.lock().enter(id, session.clone());
        // without the lock, because on a session that has ended already the callback runs right here
        let rooms = self.clone();
        session.add_close_callback("chat", id, move |closed| rooms.lock().left(id, closed));
    }

    /// Does what a person's line asks for. The reply is the person's own; others hear of it by themselves.
    pub(crate) fn hear(&self, id: u64, line: &str) -> Reply<Line> {
        let line = printable(line);
        let line = line.trim();
        if line.is_empty() {
            return Reply::none();
        }
        let mut state = self.lock();
        let Some(command) = line.strip_prefix('/') else {
            return state.say(id, line);
        };
        let (command, argument) = command
            .split_once(char::is_whitespace)
            .map_or((command, ""), |(command, rest)| (command, rest.trim()));
        match command {
            "name" => state.rename(id, argument),
            "join" => state.go(id, argument),
            "leave" => state.go(id, LOBBY),
            "who" => state.who(id),
            "echo" => state.echo(id),
            "help" => Reply::many(HELP.map(Line::from).into()),
            "quit" => notice("goodbye").and_close(),
            _ => notice(format_args!("there is no /{command}; try /help")),
        }
    }

    /// Tells everybody that the server goes down, and how many they are. They do not hear of each other's leaving.
    pub(crate) fn say_goodbye(&self) -> usize {
        let mut state = self.lock();
        state.closing = true;
        let line = Line::from("* the server is going down: goodbye");
        state
            .people
            .values_mut()
            .for_each(|person| person.tell(&line));
        state.people.len()
    }

    /// How many sessions have ended, and how.
    pub(crate) fn endings(&self) -> String {
        let state = self.lock();
        let total: usize = state.endings.values().sum();
        let each = state
            .endings
            .iter()
            .map(|(reason, n)| format!(", {reason} {n}"));
        total.to_string() + &each.collect::<String>()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, id: u64, session: Session<Line>) {
        let name = loop {
            self.guests += 1;
            let name = format!("guest-{}", self.guests);
            if self.names.insert(name.clone()) {
                break Line::from(name);
            }
        };
        let room = Line::from(LOBBY);
        let mut person = Person {
            session,
            name,
            room,
            echo: false,
            missed: 0,
        };
        person.tell(&format!("* you are {} in the room {LOBBY}; try /help", person.name).into());
        self.tell_room(LOBBY, id, &format!("* {} is here", person.name).into());
        self.rooms
            .entry(Arc::clone(&person.room))
            .or_default()
            .insert(id);
        self.people.insert(id, person);
    }

    fn left(&mut self, id: u64, closed: &Closed) {
        *self.endings.entry(closed.reason.as_str()).or_default() += 1;
        let Some(person) = self.people.remove(&id) else {
            return;
        };
        self.names.remove(&person.name.to_lowercase());
        self.vacate(&person.room, id);
        if !self.closing {
            self.tell_room(
                &person.room,
                id,
                &format!("* {} has left", person.name).into(),
            );
        }
    }

    fn say(&mut self, id: u64, text: &str) -> Reply<Line> {
        if text.len() > LONGEST_TEXT {
            return notice(format_args!(
                "nobody got that: it has {} bytes, and {LONGEST_TEXT} are allowed",
                text.len()
            ));
        }
        let Some(person) = self.people.get(&id) else {
            return Reply::none();
        };
        let line = Line::from(format!("{}: {text}", person.name));
        let (room, echo) = (Arc::clone(&person.room), person.echo);
        self.tell_room(&room, id, &line);
        if echo {
            Reply::one(line)
        } else {
            Reply::none()
        }
    }

    fn rename(&mut self, id: u64, name: &str) -> Reply<Line> {
        if let Err(why) = check_name(name) {
            return notice(format_args!("no name: {why}"));
        }
        let Some(person) = self.people.get_mut(&id) else {
            return Reply::none();
        };
        let (old, new) = (person.name.to_lowercase(), name.to_lowercase());
        if old != new && self.names.contains(&new) {
            return notice(format_args!("somebody is called {name} already"));
        }
        self.names.remove(&old);
        self.names.insert(new);
        let before = std::mem::replace(&mut person.name, name.into());
        let room = Arc::clone(&person.room);
        self.tell_room(&room, id, &format!("* {before} is now {name}").into());
        notice(format_args!("you are {name} now"))
    }

    fn go(&mut self, id: u64, room: &str) -> Reply<Line> {
        if let Err(why) = check_name(room) {
            return notice(format_args!("no room: {why}"));
        }
        let Some(person) = self.people.get_mut(&id) else {
            return Reply::none();
        };
        if *person.room == *room {
            return notice(format_args!("you are in {room} already"));
        }
        let before = std::mem::replace(&mut person.room, room.into());
        let name = Arc::clone(&person.name);
        let room = Arc::clone(&person.room);
        self.vacate(&before, id);
        self.tell_room(&before, id, &format!("* {name} has left for {room}").into());
        self.tell_room(&room, id, &format!("* {name} is here").into());
        self.rooms.entry(Arc::clone(&room)).or_default().insert(id);
        notice(format_args!("you are in {room} now"))
    }

    fn who(&self, id: u64) -> Reply<Line> {
        let Some(Person { room, .. }) = self.people.get(&id) else {
            return Reply::none();
        };
        let mut names: Vec<&str> = self
            .rooms
            .get(room)
            .into_iter()
            .flatten()
            .filter_map(|id| self.people.get(id))
            .map(|person| &*person.name)
            .collect();
        names.sort_unstable();
        let lines = names.chunks(NAMES_A_LINE);
        Reply::many(
            lines
                .map(|names| format!("* in {room}: {}", names.join(", ")).into())
                .collect(),
        )
    }

    fn echo(&mut self, id: u64) -> Reply<Line> {
        if let Some(person) = self.people.get_mut(&id) {
            person.echo = true;
        }
        notice("you hear your own lines now")
    }

    /// Everybody in `room` but `except`.
    fn tell_room(&mut self, room: &str, except: u64, line: &Line) {
        for id in self.rooms.get(room).into_iter().flatten() {
            if *id != except
                && let Some(person) = self.people.get_mut(id)
            {
                person.tell(line);
            }
        }
    }

    fn vacate(&mut self, room: &str, id: u64) {
        if let Some(people) = self.rooms.get_mut(room) {
            people.remove(&id);
            if people.is_empty() {
                self.rooms.remove(room);
            }
        }
    }
}

impl Person {
    /// Queues a line. Where a slow reader's queue is full it is dropped, and the reader is told how many as soon as
    /// there is room again; nobody else waits for that.
    fn tell(&mut self, line: &Line) {
        if self.missed > 0 {
            let notice = format!(
                "* you read too slowly and have missed {} lines",
                self.missed
            );
            if self.session.try_send(notice.into()).is_err() {
                self.missed += 1;
                return;
            }
            self.missed = 0;
        }
        if let Err(SendError::Full(_)) = self.session.try_send(Arc::clone(line)) {
            self.missed = 1;
        }
    }
}

fn notice(text: impl std::fmt::Display) -> Reply<Line> {
    Reply::one(format!("* {text}").into())
}

/// Without what could play tricks on another's terminal.
fn printable(line: &str) -> String {
    line.chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|c| !c.is_control())
        .collect()
}

/// No spaces and no punctuation but `-` and `_`, so that a name cannot be taken for a notice or for what somebody said.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is missing".to_owned());
    }
    if name.chars().count() > LONGEST_NAME {
        return Err(format!("more than {LONGEST_NAME} characters"));
    }
    match name
        .chars()
        .find(|&c| !(c.is_alphanumeric() || "-_".contains(c)))
    {
        Some(c) => Err(format!("letters, digits, - and _ only, not {c:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use getty::{
        CloseReason, Connection,
        layers::driver::{self, Driver},
    };

    use super::*;

    /// Somebody in the rooms, whose session nobody drives but the test.
    struct Guest {
        rooms: Rooms,
        id: u64,
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
                id: session.id(),
                driver,
                connection,
            }
        }

        fn types(&self, line: &str) -> Vec<Line> {
            self.rooms.hear(self.id, line).into_parts().0.collect()
        }

        fn hears(&mut self) -> Vec<Line> {
            self.driver.turn(&Context::from_waker(Waker::noop()));
            std::iter::from_fn(|| self.driver.next_outgoing())
                .map(|outgoing| outgoing.message)
                .collect()
        }

        fn hears_last(&mut self) -> Line {
            self.hears().pop().expect("somebody said something")
        }

        fn hangs_up(self) {
            self.connection.handle().close_with(CloseReason::PeerClosed);
        }
    }

    #[test]
    fn line_reaches_everybody_else_in_the_room_and_nobody_elsewhere() {
        let rooms = Rooms::default();
        let (mut one, mut two, mut three) = (
            Guest::enter(&rooms),
            Guest::enter(&rooms),
            Guest::enter(&rooms),
        );
        three.types("/join tea");
        one.hears();
        three.hears();
        assert!(one.types("hello").is_empty());
        assert_eq!(&*two.hears_last(), "guest-1: hello");
        assert!(one.hears().is_empty());
        assert!(three.hears().is_empty());
    }

    #[test]
    fn names_are_unique_whatever_their_case_and_free_again_when_their_owner_is_gone() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        one.types("/name Ada");
        assert_eq!(
            *two.types("/name aDA"),
            ["* somebody is called aDA already".into()]
        );
        one.hangs_up();
        assert_eq!(&*two.hears_last(), "* Ada has left");
        assert_eq!(*two.types("/name aDA"), ["* you are aDA now".into()]);
    }

    #[test]
    fn guest_gets_a_name_that_nobody_has_taken() {
        let rooms = Rooms::default();
        let one = Guest::enter(&rooms);
        one.types("/name guest-2");
        let mut two = Guest::enter(&rooms);
        assert_eq!(
            &*two.hears_last(),
            "* you are guest-3 in the room lobby; try /help"
        );
    }

    #[test]
    fn nothing_typed_can_pass_for_a_notice_or_move_another_terminal() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        for bad in ["", "a b", "a:b", "*", "abcdefghijklmnopqrstu", "a\u{202e}b"] {
            assert!(
                one.types(&format!("/name {bad}"))[0].starts_with("* no name: "),
                "{bad:?}"
            );
        }
        two.hears();
        one.types("\x1b[2J\thi\x07\u{9b}");
        assert_eq!(&*two.hears_last(), "guest-1: [2J hi");
    }

    #[test]
    fn own_line_comes_back_to_whoever_asks_for_it_as_the_others_hear_it() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        assert_eq!(
            *one.types("/echo"),
            ["* you hear your own lines now".into()]
        );
        assert_eq!(*one.types(" hi\x07 "), ["guest-1: hi".into()]);
        assert_eq!(&*two.hears_last(), "guest-1: hi");
        assert!(two.types("hi").is_empty());
    }

    #[test]
    fn slow_reader_is_told_how_much_was_dropped() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        two.hears();
        two.driver.settle(false);
        let room = usize::try_from(driver::DEFAULT_QUEUE_CAPACITY).unwrap();
        for n in 0..room + 3 {
            one.types(&n.to_string());
        }
        assert_eq!(two.hears().len(), room);
        two.driver.settle(false);
        one.types("after");
        assert_eq!(
            two.hears(),
            [
                "* you read too slowly and have missed 3 lines".into(),
                Line::from("guest-1: after")
            ]
        );
    }
}
