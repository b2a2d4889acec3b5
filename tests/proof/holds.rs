//! Leases: whoever held one holds it until its time has passed, and nobody gets past it (G8).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, SystemTime};

use ifmatch::{Collection, Lease, Result, Store, Version};
use serde::{Deserialize, Serialize};

use super::worlds::Worlds;
use super::{Counts, Go, No, Proof, Tools, Violation, go, micros, no, rise};

pub const COUNTED: &[&str] = &[
    "leases taken",
    "leases renewed",
    "leases released",
    "writes of holders",
    "writes of others",
    "others kept out",
    "late holders kept out",
    "leases held after a stop",
    "leases expired",
];

const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(30);
/// In microseconds: nearer to its end nothing is expected of a lease.
const SLACK: u64 = 100_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    /// The lease of a key by name and end, and what the key has.
    Shows {
        key: u64,
        now: u64,
        lease: Option<(String, u64)>,
        value: Option<u64>,
    },
    Asks {
        key: u64,
        now: u64,
        step: Step,
    },
    /// `until` is told of leases that were taken or renewed.
    Done {
        key: u64,
        version: Option<u64>,
        until: Option<u64>,
    },
    Not {
        key: u64,
        now: u64,
        no: No,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    Take {
        name: String,
        millis: u64,
    },
    Renew {
        name: String,
        millis: u64,
    },
    Release {
        name: String,
    },
    /// By the holder of the lease of this name, or by somebody else.
    Write {
        name: Option<String>,
        value: u64,
    },
}

/// A lease that somebody knows the token of.
#[derive(Clone, Debug)]
struct Mine {
    name: String,
    token: u64,
}

pub struct Worker<'a> {
    tools: Tools<'a>,
    held: Collection<u64, u64>,
    life: String,
    keys: Range<u64>,
    mine: HashMap<u64, Mine>,
    asked: u64,
}

#[derive(Clone, Default)]
pub struct Record {
    keys: BTreeMap<u64, Key>,
}

#[derive(Clone, Default)]
struct Key {
    worlds: Worlds<World>,
    /// The step, and when it began.
    under_way: Option<(Step, u64)>,
    above: u64,
    /// The last lease whose token was told.
    known: Option<Mine>,
}

/// A possible state of a key.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    lease: Option<Held>,
    value: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    name: String,
    /// When it expires: between these, which are the same once it was told.
    until: (u64, u64),
}

impl World {
    fn surely_held(&self, now: u64) -> bool {
        self.lease.as_ref().is_some_and(|held| now + SLACK < held.until.0)
    }

    fn surely_free(&self, now: u64) -> bool {
        self.lease.as_ref().is_none_or(|held| now > held.until.1.saturating_add(SLACK))
    }

    fn is_named(&self, name: &str) -> bool {
        self.lease.as_ref().is_some_and(|held| held.name == name)
    }

    /// What a step makes of it, unless it has to be refused.
    fn after(&self, step: &Step, now: u64) -> Option<World> {
        let mut after = self.clone();
        let held = |name: &String, millis: u64| {
            let until = (now + millis * 1_000, u64::MAX);
            Some(Held { name: name.clone(), until })
        };
        match step {
            Step::Take { .. } | Step::Write { name: None, .. } if self.surely_held(now) => {
                return None;
            }
            Step::Renew { name, .. }
            | Step::Release { name }
            | Step::Write { name: Some(name), .. }
                if !self.is_named(name) || self.surely_free(now) =>
            {
                return None;
            }
            Step::Take { name, millis } | Step::Renew { name, millis } => {
                after.lease = held(name, *millis);
            }
            Step::Release { .. } => after.lease = None,
            Step::Write { value, .. } => after.value = Some(*value),
        }
        Some(after)
    }

    /// Whether a step may be refused for this reason between two times.
    fn may_refuse(&self, step: &Step, (began, now): (u64, u64), reason: &str) -> bool {
        match step {
            Step::Take { .. } | Step::Write { name: None, .. } => {
                reason == "locked" && !self.surely_free(began)
            }
            Step::Renew { name, .. }
            | Step::Release { name }
            | Step::Write { name: Some(name), .. } => {
                reason == "fenced" && !(self.is_named(name) && self.surely_held(now))
            }
        }
    }

    /// Whether it may show itself like this. Notes when the lease expires.
    fn may_show(&mut self, now: u64, lease: &Option<(String, u64)>, value: Option<u64>) -> bool {
        let shown = match (&mut self.lease, lease) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(_), None) => !self.surely_held(now),
            (Some(held), Some((name, until))) => {
                let fits = (held.until.0..=held.until.1).contains(until);
                held.until = (*until, *until);
                fits && held.name == *name && now <= until + SLACK
            }
        };
        shown && self.value == value
    }
}

impl<'a> Worker<'a> {
    pub fn new(tools: Tools<'a>, life: &str, keys: Range<u64>) -> Result<Worker<'a>> {
        let (held, life) = (tools.store.collection("held")?, life.to_owned());
        Ok(Worker { tools, held, life, keys, mine: HashMap::new(), asked: 0 })
    }

    pub fn step(&mut self, random: &mut fastrand::Rng) -> Go {
        // As often as not one that it has leased.
        let leased = self.keys.clone().filter(|key| self.mine.contains_key(key));
        let leased = random.choice(leased.collect::<Vec<_>>()).filter(|_| random.bool());
        let key = leased.unwrap_or_else(|| random.u64(self.keys.clone()));
        let shown = show(self.tools, &self.held, key);
        self.asked += 1;
        let (fresh, value) = (format!("{}-{}", self.life, self.asked), random.u64(..));
        let millis = if random.bool() { LONG } else { SHORT }.as_millis() as u64;
        let mine = self.mine.get(&key).cloned();
        let name = mine.as_ref().map(|mine| mine.name.clone());
        let by_me = name.is_some() && shown == name;
        let step = match (random.u8(0..8), name) {
            (0..3, Some(name)) if by_me => Step::Write { name: Some(name), value },
            (3..5, Some(name)) if by_me => Step::Release { name },
            (5, Some(name)) if by_me => Step::Renew { name, millis },
            // Late.
            (0, Some(name)) => Step::Write { name: Some(name), value },
            (1, Some(name)) => Step::Renew { name, millis },
            (2 | 6, _) => Step::Write { name: None, value },
            _ => Step::Take { name: fresh, millis },
        };
        let taken = ask(self.tools, &self.held, key, mine, step)?;
        self.mine.extend(taken.map(|mine| (key, mine)));
        Go::Continue(())
    }
}

/// Tells how a key is. Returns the name of its lease.
fn show(tools: Tools<'_>, held: &Collection<u64, u64>, key: u64) -> Option<String> {
    let now = tools.micros();
    let lease = held.lease_of(key).unwrap();
    let lease = lease.map(|info| (info.holder().unwrap().to_owned(), micros(info.expires_at())));
    let value = held.get(key).unwrap().map(|value| *value);
    let name = lease.as_ref().map(|(name, _)| name.clone());
    (tools.tell)(super::Told::Hold(Told::Shows { key, now, lease, value }));
    name
}

/// Takes a step, and tells of it. Returns the lease that it took.
fn ask(
    tools: Tools<'_>,
    held: &Collection<u64, u64>,
    key: u64,
    mine: Option<Mine>,
    step: Step,
) -> std::ops::ControlFlow<(), Option<Mine>> {
    let tell = |told| (tools.tell)(super::Told::Hold(told));
    let now = tools.micros();
    tell(Told::Asks { key, now, step: step.clone() });
    let token = Version::new(mine.map_or(u64::MAX, |mine| mine.token)).unwrap();
    let lease = held.lease_with_token(key, token);
    let of = |lease: Lease| (Some(lease.token().get()), lease.expires_at().map(micros));
    let answer = match &step {
        Step::Take { name, millis } => {
            let take = held.lease(key).ttl(Duration::from_millis(*millis)).by(name.clone());
            take.commit().map(of)
        }
        Step::Renew { millis, .. } => lease.renew(Duration::from_millis(*millis)).commit().map(of),
        Step::Release { .. } => lease.release().commit().map(|_| (None, None)),
        Step::Write { name, value } => {
            let write = held.put(key, *value).unconditional();
            let write = if name.is_some() { write.holding(&lease) } else { write };
            write.commit().map(|done| (Some(done.version().get()), None))
        }
    };
    let go = go(&answer);
    let mut taken = None;
    match answer {
        Ok((version, until)) => {
            if let (Step::Take { name, .. }, Some(token)) = (step, version) {
                taken = Some(Mine { name, token });
            }
            tell(Told::Done { key, version, until });
        }
        Err(error) => _ = no(&error).map(|no| tell(Told::Not { key, now: tools.micros(), no })),
    }
    go.map_continue(|()| taken)
}

impl Record {
    pub fn learn(
        &mut self,
        told: &Told,
        highest: &mut u64,
        counts: &mut Counts,
    ) -> std::result::Result<(), Violation> {
        let (Told::Shows { key, .. }
        | Told::Asks { key, .. }
        | Told::Done { key, .. }
        | Told::Not { key, .. }) = told;
        let Key { worlds, under_way, above, known } = self.keys.entry(*key).or_default();
        match told {
            Told::Shows { now, lease, value, .. } => {
                let expires = |world: &World| world.lease.is_some() && lease.is_none();
                if worlds.only().is_some_and(|world| expires(world)) {
                    counts.add("leases expired");
                }
                worlds.seen(told, |world| world.may_show(*now, lease, *value))
            }
            Told::Asks { now, step, .. } => {
                *above = *highest;
                *under_way = Some((step.clone(), *now));
                worlds.ask(|world| world.after(step, *now));
                Ok(())
            }
            Told::Done { version, until, .. } => {
                let (step, _) = under_way.take().unwrap();
                match &step {
                    Step::Take { name, .. } => {
                        let token = version.unwrap();
                        rise(highest, token, *above, told)?;
                        *known = Some(Mine { name: name.clone(), token });
                    }
                    Step::Write { .. } => rise(highest, version.unwrap(), *above, told)?,
                    Step::Renew { .. } if known.as_ref().map(|mine| mine.token) != *version => {
                        return Err(format!("{told:?}, and the token was {known:?}"));
                    }
                    Step::Renew { .. } | Step::Release { .. } => {}
                }
                counts.add(match step {
                    Step::Take { .. } => "leases taken",
                    Step::Renew { .. } => "leases renewed",
                    Step::Release { .. } => "leases released",
                    Step::Write { name: Some(_), .. } => "writes of holders",
                    Step::Write { name: None, .. } => "writes of others",
                });
                worlds.landed(&(step, told), |world| {
                    if let (Some(until), Some(held)) = (until, &mut world.lease) {
                        let fits = held.until.0 <= *until;
                        held.until = (*until, *until);
                        return fits;
                    }
                    true
                })
            }
            Told::Not { no: No::Broken(what), .. } => Err(what.clone()),
            Told::Not { no: No::NotApplied, .. } => worlds.refused(told, |_| true),
            Told::Not { now, no: No::Conflict(reason), .. } => {
                let (step, began) = under_way.take().unwrap();
                counts.add(match reason.as_str() {
                    "locked" => "others kept out",
                    _ => "late holders kept out",
                });
                let between = (began, *now);
                worlds.refused(&(&step, told), |world| world.may_refuse(&step, between, reason))
            }
        }
    }
}

/// Each key is as it was told; whoever holds a lease gets in, others do not. Some leases are
/// released, the others stay for the next life.
pub fn check(
    proof: &mut Proof,
    store: &Store,
    now: &(dyn Fn() -> SystemTime + Sync),
) -> std::result::Result<(), Violation> {
    let held = store.collection("held").map_err(|error| error.to_string())?;
    let keys: Vec<u64> = proof.holds.keys.keys().copied().collect();
    for key in keys {
        proof.take(store, now, |tools| _ = show(tools, &held, key))?;
        let Key { worlds, known, .. } = proof.holds.keys.get_mut(&key).unwrap();
        let Some(mine) = known.clone() else { continue };
        let is_held = worlds
            .only()
            .is_some_and(|world| world.is_named(&mine.name) && world.surely_held(micros(now())));
        let (name, value) = (mine.name.clone(), mine.token);
        let mut steps = vec![
            Step::Write { name: None, value },
            Step::Write { name: Some(name.clone()), value: value + 1 },
        ];
        if is_held {
            proof.counts.add("leases held after a stop");
            if proof.counts.of("checks").is_multiple_of(2) {
                steps.push(Step::Release { name: name.clone() });
                steps.push(Step::Write { name: Some(name), value });
                steps.push(Step::Write { name: None, value });
            }
        }
        for step in steps {
            proof.take(store, now, |tools| _ = ask(tools, &held, key, Some(mine.clone()), step))?;
        }
        proof.take(store, now, |tools| _ = show(tools, &held, key))?;
    }
    Ok(())
}
