//! Operations: one in progress in a scope, the others in order of arrival, and each that has ended
//! as it has ended.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use ifmatch::{OnBusy, OperationInfo, OperationToken, Operations, Result, Store};
use serde::{Deserialize, Serialize};

use super::worlds::Worlds;
use super::{Counts, Go, No, Proof, Tools, Violation, go, micros, no};

pub const COUNTED: &[&str] = &[
    "operations begun",
    "operations queued",
    "operations taken up by another life",
    "signs of life",
    "operations ended",
    "operations refused",
    "operations in progress after a stop",
    "operations queued after a stop",
    "operations ended before a stop",
];

const TTL: Duration = Duration::from_secs(3_600);
const SCOPES: u64 = 2;
/// How many a worker lets wait.
const QUEUE: usize = 3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    Asks {
        scope: u64,
        step: Step,
    },
    Done {
        scope: u64,
        seen: Seen,
        token: Option<u64>,
        replayed: bool,
    },
    /// With the name of the operation that is in progress, if that was told.
    Not {
        scope: u64,
        no: No,
        running: Option<String>,
    },
    /// All whose ids are known.
    Shows {
        scope: u64,
        all: Vec<Seen>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    Begin { name: String, queue: bool },
    Take { name: String, verb: Verb },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verb {
    Heartbeat,
    Progress(u8),
    Complete,
    Fail,
    Cancel,
}

/// An operation as everybody sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    id: String,
    name: String,
    status: String,
    position: Option<usize>,
    progress: Option<u8>,
    expires: Option<u64>,
    output: Option<Vec<u8>>,
}

/// An operation of which the token is known.
#[derive(Clone, Debug, PartialEq)]
struct Mine {
    name: String,
    id: String,
    token: u64,
}

pub struct Worker<'a> {
    tools: Tools<'a>,
    operations: Operations,
    life: String,
    number: u64,
    /// By scope; the last to be begun is last.
    mine: HashMap<u64, Vec<Mine>>,
    asked: u64,
}

#[derive(Clone, Default)]
pub struct Record {
    scopes: BTreeMap<u64, Scope>,
}

#[derive(Clone, Default)]
struct Scope {
    worlds: Worlds<World>,
    under_way: Option<Step>,
    /// Those that a check has found ended, as they were.
    ended: Vec<Seen>,
}

/// A possible state of a scope: its operations in the order in which they were begun.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    all: Vec<Known>,
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    name: String,
    /// Id and token, once told.
    told: Option<(String, u64)>,
    end: Option<Verb>,
    progress: Option<u8>,
    /// When it expires, if that was told.
    expires: Option<u64>,
    /// Whether the step under way would be the one to begin it.
    fresh: bool,
}

impl World {
    fn place(&self, name: &str) -> Option<usize> {
        self.all.iter().filter(|known| known.end.is_none()).position(|known| known.name == name)
    }

    fn named(&mut self, name: &str) -> Option<&mut Known> {
        self.all.iter_mut().find(|known| known.name == name)
    }

    /// What a step makes of it, unless it has to be refused.
    fn after(&self, step: &Step) -> Option<World> {
        let mut after = self.clone();
        after.all.iter_mut().for_each(|known| known.fresh = false);
        match step {
            Step::Begin { name, queue } => {
                if after.named(name).is_none() {
                    if !queue && self.all.iter().any(|known| known.end.is_none()) {
                        return None;
                    }
                    let (name, fresh) = (name.clone(), true);
                    let (told, end, progress, expires) = (None, None, None, None);
                    after.all.push(Known { name, told, end, progress, expires, fresh });
                }
            }
            Step::Take { name, verb } => {
                let place = self.place(name)?;
                if place > 0 && *verb != Verb::Cancel {
                    return None;
                }
                let known = after.named(name)?;
                match verb {
                    Verb::Heartbeat => known.expires = None,
                    Verb::Progress(percent) => {
                        (known.progress, known.expires) = (Some(*percent), None);
                    }
                    end => known.end = Some(*end),
                }
            }
        }
        Some(after)
    }

    fn may_refuse(&self, step: &Step, reason: &str, running: Option<&str>) -> bool {
        let first = self.all.iter().find(|known| known.end.is_none());
        let first = first.map(|known| known.name.as_str());
        match step {
            Step::Begin { name, queue } => {
                let is_new = self.all.iter().all(|known| known.name != *name);
                reason == "in_progress" && is_new && !queue && first.is_some() && running == first
            }
            Step::Take { name, verb } => match self.place(name) {
                None => reason == "fenced",
                Some(0) => false,
                Some(_) => reason == "in_progress" && *verb != Verb::Cancel && running == first,
            },
        }
    }

    /// Whether this operation may show itself like this. Notes what it tells.
    fn may_show(&mut self, seen: &Seen) -> bool {
        let place = self.place(&seen.name);
        let Some(known) = self.named(&seen.name) else { return false };
        let status = match (known.end, place) {
            (Some(Verb::Complete), _) => "completed",
            (Some(Verb::Fail), _) => "failed",
            (Some(_), _) => "cancelled",
            (None, Some(0)) => "in_progress",
            (None, _) => "queued",
        };
        let expires = seen.expires.is_none_or(|expires| {
            let same = known.expires.is_none_or(|known| known == expires);
            known.expires = Some(expires);
            same
        });
        let output = matches!(known.end, Some(Verb::Complete | Verb::Fail));
        let output = output.then(|| output_of(&known.name));
        seen.status == status
            && seen.position == place.filter(|place| *place > 0 && known.end.is_none())
            && seen.progress == known.progress
            && seen.output == output
            && expires
            && known.told.as_ref().is_none_or(|(id, _)| *id == seen.id)
    }
}

fn output_of(name: &str) -> Vec<u8> {
    format!("of {name}").into_bytes()
}

impl<'a> Worker<'a> {
    pub fn new(tools: Tools<'a>, life: &str, number: u64) -> Worker<'a> {
        let operations = tools.store.operations("job");
        Worker { tools, operations, life: life.to_owned(), number, mine: HashMap::new(), asked: 0 }
    }

    pub fn step(&mut self, random: &mut fastrand::Rng) -> Go {
        let scope = self.number * SCOPES + random.u64(0..SCOPES);
        self.asked += 1;
        let fresh = format!("{}-{}", self.life, self.asked);
        let (tools, operations) = (self.tools, &self.operations);
        let mine = self.mine.entry(scope).or_default();
        let take = match random.u8(0..8) {
            0..3 if mine.len() < QUEUE => {
                let begin = Step::Begin { name: fresh, queue: true };
                mine.extend(ask(tools, operations, scope, None, begin)?.ok());
                return Go::Continue(());
            }
            3 => {
                // Whoever is in the way, of whatever life, is taken up.
                let begin = Step::Begin { name: fresh, queue: false };
                match ask(tools, operations, scope, None, begin)? {
                    Ok(begun) => mine.push(begun),
                    Err(Some(name)) => {
                        let again = Step::Begin { name, queue: false };
                        let found = ask(tools, operations, scope, None, again)?;
                        mine.extend(found.ok().filter(|found| !mine.contains(found)));
                    }
                    Err(None) => {}
                }
                return Go::Continue(());
            }
            _ if mine.is_empty() => return Go::Continue(()),
            _ => mine[random.usize(..mine.len())].clone(),
        };
        let verb = match random.u8(0..8) {
            0..2 => Verb::Heartbeat,
            2..4 => Verb::Progress(random.u8(0..101)),
            4 | 5 => Verb::Complete,
            6 => Verb::Fail,
            _ => Verb::Cancel,
        };
        let step = Step::Take { name: take.name.clone(), verb };
        let taken = ask(tools, operations, scope, Some(&take), step)?;
        // Now and then an end is tried twice.
        let ends = !matches!(verb, Verb::Heartbeat | Verb::Progress(_));
        if ends && (taken.is_ok() || random.bool()) && random.u8(0..4) > 0 {
            mine.retain(|mine| *mine != take);
        }
        Go::Continue(())
    }
}

/// Takes a step, and tells of it. Returns the operation, or the name of what is in the way.
fn ask(
    tools: Tools<'_>,
    operations: &Operations,
    scope: u64,
    mine: Option<&Mine>,
    step: Step,
) -> std::ops::ControlFlow<(), std::result::Result<Mine, Option<String>>> {
    let tell = |told| (tools.tell)(super::Told::Job(told));
    tell(Told::Asks { scope, step: step.clone() });
    let answer: Result<(OperationInfo, Option<u64>, bool)> = match (&step, mine) {
        (Step::Begin { name, queue }, _) => {
            let on_busy = if *queue { OnBusy::Queue } else { OnBusy::Reject };
            let begin = operations.begin(scope.to_string()).ttl(TTL).on_busy(on_busy);
            let begun = begin.by(name.clone()).operation_id(name.clone()).commit();
            begun.map(|begun| {
                (begun.info().clone(), Some(begun.token().bits()), begun.is_replayed())
            })
        }
        (Step::Take { name, verb }, Some(mine)) => {
            let token = OperationToken::from_bits(mine.token);
            let handle = operations.with_token(mine.id.clone(), token);
            let step = match verb {
                Verb::Heartbeat => handle.heartbeat(),
                Verb::Progress(percent) => handle.progress(*percent),
                Verb::Complete => handle.complete(output_of(name)),
                Verb::Fail => handle.fail(output_of(name)),
                Verb::Cancel => handle.cancel(),
            };
            step.commit().map(|info| (info, None, false))
        }
        (Step::Take { .. }, None) => unreachable!("a step is of an operation that is known"),
    };
    go(&answer)?;
    Go::Continue(()).map_continue(|()| match answer {
        Ok((info, token, replayed)) => {
            let seen = Seen::of(&info);
            let (id, name) = (seen.id.clone(), seen.name.clone());
            tell(Told::Done { scope, seen, token, replayed });
            let token = token.or(mine.map(|mine| mine.token)).unwrap();
            Ok(Mine { name, id, token })
        }
        Err(error) => {
            let conflict = error.conflict();
            let running = conflict.and_then(|conflict| conflict.operation()?.started_by());
            let running = running.map(str::to_owned);
            if let Some(no) = no(&error) {
                tell(Told::Not { scope, no, running: running.clone() });
            }
            Err(running)
        }
    })
}

impl Seen {
    fn of(info: &OperationInfo) -> Seen {
        Seen {
            id: info.id().to_owned(),
            name: info.started_by().unwrap_or_default().to_owned(),
            status: info.status().as_str().to_owned(),
            position: info.position(),
            progress: info.progress(),
            expires: info.expires_at().map(micros),
            output: info.result().or(info.error()).map(<[u8]>::to_vec),
        }
    }
}

impl Record {
    pub fn learn(
        &mut self,
        told: &Told,
        counts: &mut Counts,
    ) -> std::result::Result<(), Violation> {
        let (Told::Asks { scope, .. }
        | Told::Done { scope, .. }
        | Told::Not { scope, .. }
        | Told::Shows { scope, .. }) = told;
        let Scope { worlds, under_way, .. } = self.scopes.entry(*scope).or_default();
        match told {
            Told::Asks { step, .. } => {
                *under_way = Some(step.clone());
                worlds.ask(|world| world.after(step));
                Ok(())
            }
            Told::Done { seen, token, replayed, .. } => {
                let step = under_way.take().unwrap();
                counts.add(match &step {
                    Step::Begin { .. } if *replayed => "operations taken up by another life",
                    Step::Begin { .. } if seen.status == "queued" => "operations queued",
                    Step::Begin { .. } => "operations begun",
                    Step::Take { verb: Verb::Heartbeat | Verb::Progress(_), .. } => "signs of life",
                    Step::Take { .. } => "operations ended",
                });
                worlds.landed(&(&step, told), |world| {
                    let shown = world.may_show(seen);
                    let known = world.named(&seen.name);
                    known.is_some_and(|known| {
                        let fits = matches!(step, Step::Take { .. }) || known.fresh != *replayed;
                        known.fresh = false;
                        let token = token.map(|token| (seen.id.clone(), token));
                        let same = known.told.is_none() || token.is_none() || known.told == token;
                        known.told = known.told.take().or(token);
                        shown && fits && same
                    })
                })
            }
            Told::Not { no: No::Broken(what), .. } => Err(what.clone()),
            Told::Not { no: No::NotApplied, .. } => worlds.refused(told, |_| true),
            Told::Not { no: No::Conflict(reason), running, .. } => {
                let step = under_way.take().unwrap();
                counts.add("operations refused");
                let running = running.as_deref();
                let fits = |world: &World| world.may_refuse(&step, reason, running);
                worlds.refused(&(&step, told), fits)
            }
            Told::Shows { all, .. } => worlds.seen(told, |world| {
                all.iter().all(|seen| world.may_show(seen)) && world.all.len() == all.len()
            }),
        }
    }
}

/// Each scope is as it was told, its queue in order; what was ended before is as it was. Now and
/// then the one in progress ends, and the next has started.
pub fn check(
    proof: &mut Proof,
    store: &Store,
    now: &(dyn Fn() -> SystemTime + Sync),
) -> std::result::Result<(), Violation> {
    let operations = store.operations("job");
    let scopes: Vec<u64> = proof.jobs.scopes.keys().copied().collect();
    for scope in scopes {
        check_ended(&proof.jobs.scopes[&scope], &operations)?;
        // Those of which nobody was told are asked for again, which tells their ids.
        while let Some(name) = proof.jobs.scopes.get_mut(&scope).unwrap().untold() {
            let step = Step::Begin { name, queue: true };
            proof.take(store, now, |tools| _ = ask(tools, &operations, scope, None, step))?;
        }
        show(proof, store, now, &operations, scope)?;
        let world = proof.jobs.scopes.get_mut(&scope).unwrap().worlds.only().cloned();
        let world = world.ok_or_else(|| format!("scope {scope} has not shown what it has"))?;
        let running: Vec<_> = world.all.iter().filter(|known| known.end.is_none()).collect();
        running.iter().skip(1).for_each(|_| proof.counts.add("operations queued after a stop"));
        if let Some(Known { name, told: Some((id, token)), .. }) = running.first() {
            proof.counts.add("operations in progress after a stop");
            if proof.counts.of("checks").is_multiple_of(2) {
                let mine = Mine { name: name.clone(), id: id.clone(), token: *token };
                let step = Step::Take { name: name.clone(), verb: Verb::Complete };
                let take = |tools: Tools<'_>| _ = ask(tools, &operations, scope, Some(&mine), step);
                proof.take(store, now, take)?;
                show(proof, store, now, &operations, scope)?;
            }
        }
        let ended = proof.jobs.scopes.get_mut(&scope).unwrap().put_away(&operations);
        (0..ended).for_each(|_| proof.counts.add("operations ended before a stop"));
    }
    Ok(())
}

fn show(
    proof: &mut Proof,
    store: &Store,
    now: &(dyn Fn() -> SystemTime + Sync),
    operations: &Operations,
    scope: u64,
) -> std::result::Result<(), Violation> {
    let Scope { worlds, .. } = &mut proof.jobs.scopes.get_mut(&scope).unwrap();
    let told = worlds.any()[0].all.iter().filter_map(|known| known.told.clone());
    let infos = told.filter_map(|(id, _)| operations.get(&id).unwrap());
    let all: Vec<Seen> = infos.map(|info| Seen::of(&info)).collect();
    proof.take(store, now, |tools| (tools.tell)(super::Told::Job(Told::Shows { scope, all })))
}

fn check_ended(scope: &Scope, operations: &Operations) -> std::result::Result<(), Violation> {
    for before in &scope.ended {
        let seen = operations.get(&before.id).unwrap().map(|info| Seen::of(&info));
        if seen.as_ref() != Some(before) {
            return Err(format!("{before:?} had ended, and is {seen:?}"));
        }
    }
    Ok(())
}

impl Scope {
    fn untold(&mut self) -> Option<String> {
        let mut all = self.worlds.any().iter().flat_map(|world| &world.all);
        all.find(|known| known.told.is_none()).map(|known| known.name.clone())
    }

    /// Keeps what has ended as it is, out of the way. Returns how many.
    fn put_away(&mut self, operations: &Operations) -> usize {
        let Some(world) = self.worlds.only() else { return 0 };
        let ended = world.all.extract_if(.., |known| known.end.is_some());
        let ids = ended.filter_map(|known| known.told).map(|(id, _)| id);
        let seen = ids.filter_map(|id| operations.get(&id).unwrap()).map(|info| Seen::of(&info));
        let seen: Vec<Seen> = seen.collect();
        self.ended.extend(seen.iter().cloned());
        seen.len()
    }
}
