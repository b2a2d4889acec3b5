//! What was written and shown, and what a store may say after it: the checker.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use ifmatch::testing::{Crash, Disk, MemoryDisk, PowerCut};

/// A key of a collection.
pub type Place = (usize, u64);

/// What is wrong with the store.
pub type Violation = String;

/// An entity, by the number of the write that its value tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub write: u64,
    pub version: u64,
    /// The version is not the write's own, but that of a migration after it.
    pub migrated: bool,
}

/// The one collection that is migrated.
pub const MIGRATING: usize = 1;

/// Stands for all keys: a migration has one version.
const ALL_KEYS: Place = (MIGRATING, u64::MAX);

/// What is known of a store at some moment of its life, and of all lives before.
#[derive(Clone, Default)]
pub struct Knowledge {
    writes: Vec<Written>,
    newest: HashMap<Place, Newest>,
    /// What each version is, for ever: the write, or `None` for a delete known by its place.
    contents: BTreeMap<u64, (Place, Option<u64>)>,
    /// The highest version that was given out.
    pub highest: u64,
    /// The highest schema number that a life has asked for.
    pub schema: u32,
}

#[derive(Clone, Copy)]
struct Written {
    place: Place,
    deletes: bool,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Under way, or nobody was told: it is there whole, or it is not.
    Unknown,
    Landed(u64),
    /// The caller was told that nothing was written; or a later life of the store went without.
    Denied,
}

/// The newest state of a place that somebody was shown.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Newest {
    version: u64,
    live: bool,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A life is about to open with this schema number.
    Opens {
        schema: u32,
    },
    Began {
        place: Place,
        deletes: bool,
    },
    Landed {
        write: u64,
        version: u64,
    },
    NotApplied {
        write: u64,
    },
    Saw {
        place: Place,
        entity: Option<Shown>,
    },
    SawDeleted {
        place: Place,
        version: u64,
    },
    /// All places have been seen: what is not there by now will not come any more.
    Inspected,
}

/// The events of one life of a store, each with the number of calls that its disk had taken.
pub struct History {
    pub disk: MemoryDisk,
    before: Knowledge,
    state: Mutex<State>,
}

struct State {
    knowledge: Knowledge,
    events: Vec<(usize, Event)>,
    violation: Option<Violation>,
}

/// A write under way.
#[derive(Clone, Copy)]
pub struct Begun {
    pub write: u64,
    place: Place,
    deletes: bool,
    /// Versions up to here had been seen when it began.
    above: u64,
}

/// A read under way.
#[derive(Clone, Copy)]
pub struct Reading {
    place: Place,
    newest: Newest,
}

impl History {
    pub fn new(disk: &MemoryDisk, before: &Knowledge) -> History {
        let state = State { knowledge: before.clone(), events: Vec::new(), violation: None };
        History { disk: disk.clone(), before: before.clone(), state: Mutex::new(state) }
    }

    /// The schema number to open with: no life may ask for less than one before it.
    pub fn opens(&self, migrates: bool) -> u32 {
        let mut state = self.lock();
        let schema = (state.knowledge.schema + u32::from(migrates)).max(1);
        self.note(&mut state, Event::Opens { schema });
        schema
    }

    pub fn begin(&self, place: Place, deletes: bool) -> Begun {
        let mut state = self.lock();
        let (write, above) = (state.knowledge.writes.len() as u64, state.knowledge.highest);
        self.note(&mut state, Event::Began { place, deletes });
        Begun { write, place, deletes, above }
    }

    pub fn landed(&self, begun: Begun, version: u64) {
        let mut state = self.lock();
        if version <= begun.above {
            let Begun { write, place, above, .. } = begun;
            state.violate(format!(
                "write {write} of {place:?} got version {version}, which is not above {above}"
            ));
        }
        let content = (begun.place, (!begun.deletes).then_some(begun.write));
        state.claim(version, content);
        self.note(&mut state, Event::Landed { write: begun.write, version });
    }

    pub fn not_applied(&self, begun: Begun) {
        self.note(&mut self.lock(), Event::NotApplied { write: begun.write });
    }

    pub fn reading(&self, place: Place) -> Reading {
        Reading { place, newest: self.lock().knowledge.newest(place) }
    }

    /// Somebody was shown this, which may not be older than what had been shown before.
    pub fn saw(&self, reading: Reading, entity: Option<Shown>) {
        let mut state = self.lock();
        if let Err(violation) = state.knowledge.check(reading, entity) {
            state.violate(violation);
        }
        if let Some(shown) = entity {
            state.claim(shown.version, shown.content(reading.place));
        }
        // A reader that was overtaken meanwhile tells nothing new of an absence.
        if entity.is_some() || state.knowledge.newest(reading.place) == reading.newest {
            self.note(&mut state, Event::Saw { place: reading.place, entity });
        }
    }

    /// Somebody was told that the place was deleted.
    pub fn saw_deleted(&self, Reading { place, newest }: Reading, version: u64) {
        let mut state = self.lock();
        if version < newest.version || (newest.live && version == newest.version) {
            state.violate(format!("{place:?} deleted at {version} was shown as {newest:?}"));
        }
        state.claim(version, (place, None));
        self.note(&mut state, Event::SawDeleted { place, version });
    }

    /// A store that has just opened was asked for all places.
    pub fn inspected(&self) {
        self.note(&mut self.lock(), Event::Inspected);
    }

    pub fn violate(&self, violation: Violation) {
        self.lock().violate(violation);
    }

    /// The first thing that went wrong.
    ///
    /// # Errors
    /// It.
    pub fn verdict(&self) -> Result<(), Violation> {
        self.lock().violation.clone().map_or(Ok(()), Err)
    }

    /// What was known when the disk had taken this many calls.
    pub fn known_at(&self, calls: usize) -> Knowledge {
        let durable = self.disk.crash(calls, Crash::Power(PowerCut::default()));
        let promised = promised(&durable, &self.disk.crash(calls, Crash::Process));
        let state = self.lock();
        let mut knowledge = self.before.clone();
        for (at, event) in &state.events {
            if *at <= calls {
                knowledge.learn(*event);
            } else if let Event::Landed { write, version } = event
                && (*write as usize) < knowledge.writes.len()
                && *version <= promised
            {
                // It may have been given out, although nobody had been told.
                knowledge.highest = knowledge.highest.max(*version);
            }
        }
        knowledge
    }

    pub fn known(&self) -> Knowledge {
        self.lock().knowledge.clone()
    }

    fn note(&self, state: &mut State, event: Event) {
        state.knowledge.learn(event);
        // Calls and events are counted together, so that both are in order.
        state.events.push((self.disk.calls(), event));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The highest version that a durable header lets the store give out: the ceiling of the newest
/// segment, unless that one is closed, as far as the system shows. FORMAT.md says where they are.
fn promised(durable: &MemoryDisk, shown: &MemoryDisk) -> u64 {
    let names = durable.list().unwrap();
    let Some(newest) = names.iter().filter(|name| name.ends_with(".log")).max() else { return 0 };
    let ceiling = durable.read_at(newest, 48, 8).unwrap();
    let bytes = shown.read(newest).unwrap_or_default();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // A seal has one byte in place of records, and counts none.
    let seal = bytes[..used].last_chunk::<33>();
    let is_closed = |seal: &[u8; 33]| seal[8..16] == [1, 0, 0, 0, 0, 0, 0, 0] && seal[32] == 2;
    match ceiling.try_into() {
        Ok(ceiling) if !seal.is_some_and(is_closed) => u64::from_le_bytes(ceiling),
        _ => 0,
    }
}

impl Shown {
    /// What the version is, for ever.
    fn content(&self, place: Place) -> (Place, Option<u64>) {
        match self.migrated {
            true => (ALL_KEYS, None),
            false => (place, Some(self.write)),
        }
    }
}

impl State {
    fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// One version, one content (G2).
    fn claim(&mut self, version: u64, content: (Place, Option<u64>)) {
        let known = *self.knowledge.contents.entry(version).or_insert(content);
        if known != content {
            self.violate(format!("version {version} is {content:?}, and was {known:?}"));
        }
    }
}

impl Knowledge {
    fn newest(&self, place: Place) -> Newest {
        self.newest.get(&place).copied().unwrap_or_default()
    }

    fn learn(&mut self, event: Event) {
        match event {
            Event::Opens { schema } => self.schema = schema,
            Event::Began { place, deletes } => {
                self.writes.push(Written { place, deletes, fate: Fate::Unknown });
            }
            Event::Landed { write, version } => {
                let Written { place, deletes, .. } = self.writes[write as usize];
                self.writes[write as usize].fate = Fate::Landed(version);
                self.contents.insert(version, (place, (!deletes).then_some(write)));
                self.raise(place, Newest { version, live: !deletes });
            }
            Event::NotApplied { write } => {
                self.writes[write as usize].fate = Fate::Denied;
            }
            Event::Saw { place, entity: Some(shown) } => {
                let Shown { write, version, .. } = shown;
                if let Some(written) = self.writes.get_mut(write as usize) {
                    written.fate = Fate::Landed(version);
                }
                self.contents.insert(version, shown.content(place));
                self.raise(place, Newest { version, live: true });
            }
            Event::Saw { place, entity: None } => {
                self.newest.entry(place).or_default().live = false;
            }
            Event::Inspected => {
                let unknown = |written: &&mut Written| written.fate == Fate::Unknown;
                let unknown = self.writes.iter_mut().filter(unknown);
                unknown.for_each(|written| written.fate = Fate::Denied);
            }
            Event::SawDeleted { place, version } => {
                self.contents.insert(version, (place, None));
                self.raise(place, Newest { version, live: false });
            }
        }
    }

    fn raise(&mut self, place: Place, newest: Newest) {
        self.highest = self.highest.max(newest.version);
        let known = self.newest.entry(place).or_default();
        if newest.version > known.version {
            *known = newest;
        }
    }

    /// What is shown must have been written there, must not have been denied, and must not be
    /// older than what had been shown when the reader asked (G3).
    fn check(&self, reading: Reading, entity: Option<Shown>) -> Result<(), Violation> {
        let Reading { place, newest } = reading;
        let Some(Shown { write, version, migrated }) = entity else {
            let deleting = |written: &&Written| written.place == place && written.deletes;
            let mut deletes = self.writes.iter().filter(deleting);
            let explained = deletes.any(|delete| match delete.fate {
                Fate::Unknown => true,
                Fate::Landed(version) => version > newest.version,
                Fate::Denied => false,
            });
            return match newest.live && !explained {
                true => Err(format!("{place:?} is gone, and was shown as {newest:?}")),
                false => Ok(()),
            };
        };
        let Some(written) = self.writes.get(write as usize) else {
            return Err(format!("{place:?} shows write {write}, which nobody made"));
        };
        if migrated && (place.0 != MIGRATING || self.schema < 2) {
            return Err(format!(
                "{place:?} at version {version} is of a migration nobody asked for"
            ));
        }
        let known_version = match written.fate {
            Fate::Landed(known) => known == version || (migrated && version > known),
            Fate::Unknown => true,
            Fate::Denied => {
                return Err(format!("{place:?} shows write {write}, which had been denied"));
            }
        };
        if written.place != place || written.deletes || !known_version {
            return Err(format!("{place:?} shows write {write} as version {version}"));
        }
        let not_older = match newest.live {
            true => version >= newest.version,
            false => version > newest.version || newest.version == 0,
        };
        match not_older {
            true => Ok(()),
            false => Err(format!("{place:?} is at version {version}, and was shown as {newest:?}")),
        }
    }
}
