//! What a disk holds: what can be read of it now, and what a power cut would leave.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::fault::{Names, PowerCut, Unsynced};

const SECTOR: usize = 512;

/// What one call did.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create {
        name: String,
    },
    Write {
        node: usize,
        offset: usize,
        bytes: Arc<[u8]>,
    },
    Sync {
        node: usize,
    },
    FailedSync {
        node: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncNames,
    /// A test changed the file, for good.
    Damage {
        node: usize,
        bytes: Arc<[u8]>,
    },
    Nothing,
}

#[derive(Clone, Default)]
pub(crate) struct Medium {
    /// Files, whether they have a name or not.
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Since the last sync of the names.
    renamed: Vec<NameChange>,
}

#[derive(Clone, Default)]
struct Node {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// What makes `bytes` of `durable`.
    edits: Vec<(Edit, Fate)>,
}

#[derive(Clone)]
enum Edit {
    Truncate,
    Write(usize, Arc<[u8]>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dirty,
    /// A sync of it failed: no later one covers it.
    Lost,
    /// Synced, after something that is lost.
    Durable,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl Medium {
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    pub(crate) fn node(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    pub(crate) fn bytes(&self, node: usize) -> &[u8] {
        self.nodes.get(node).map_or(&[], |node| &node.bytes)
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used(&self) -> usize {
        self.names.values().map(|node| self.bytes(*node).len()).sum()
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { name } => match self.node(name) {
                Some(node) => self.edit(node, Edit::Truncate),
                None => {
                    self.rename(NameChange::Create(name.clone(), self.nodes.len()));
                    self.nodes.push(Node::default());
                }
            },
            Change::Write { node, offset, bytes } => {
                self.edit(*node, Edit::Write(*offset, Arc::clone(bytes)));
            }
            Change::Sync { node } => self.with(*node, |node| node.sync(Fate::Durable)),
            Change::FailedSync { node } => self.with(*node, |node| node.sync(Fate::Lost)),
            Change::Rename { from, to } => {
                self.rename(NameChange::Rename(from.clone(), to.clone()));
            }
            Change::Remove { name } => self.rename(NameChange::Remove(name.clone())),
            Change::SyncNames => {
                self.durable_names.clone_from(&self.names);
                self.renamed.clear();
            }
            Change::Damage { node, bytes } => {
                self.with(*node, |node| *node = Node::durable(bytes.to_vec()));
            }
            Change::Nothing => {}
        }
    }

    pub(crate) fn after_power_cut(&self, cut: &PowerCut) -> Medium {
        let mut random = fastrand::Rng::with_seed(cut.seed);
        let kept = match cut.names {
            Names::Dropped => 0,
            Names::Kept => self.renamed.len(),
            Names::Prefix => random.usize(..=self.renamed.len()),
        };
        let mut names = self.durable_names.clone();
        self.renamed.iter().take(kept).for_each(|change| change.apply(&mut names));
        let mut nodes = vec![Node::default(); self.nodes.len()];
        for number in names.values() {
            if let Some((old, new)) = self.nodes.get(*number).zip(nodes.get_mut(*number)) {
                *new = Node::durable(old.after_power_cut(cut.writes, &mut random));
            }
        }
        Medium { nodes, durable_names: names.clone(), names, renamed: Vec::new() }
    }

    fn edit(&mut self, node: usize, edit: Edit) {
        self.with(node, |node| {
            edit.apply(&mut node.bytes);
            node.edits.push((edit, Fate::Dirty));
        });
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.renamed.push(change);
    }

    fn with(&mut self, node: usize, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(node) {
            change(node);
        }
    }
}

impl Node {
    fn durable(bytes: Vec<u8>) -> Node {
        Node { durable: bytes.clone(), bytes, edits: Vec::new() }
    }

    fn sync(&mut self, fate: Fate) {
        for (_, old) in self.edits.iter_mut().filter(|(_, fate)| *fate == Fate::Dirty) {
            *old = fate;
        }
        if self.edits.iter().all(|(_, fate)| *fate == Fate::Durable) {
            self.edits.drain(..).for_each(|(edit, _)| edit.apply(&mut self.durable));
        }
    }

    fn after_power_cut(&self, writes: Unsynced, random: &mut fastrand::Rng) -> Vec<u8> {
        match writes {
            Unsynced::Dropped => self.with_edits(|_| false),
            Unsynced::Kept => self.with_edits(|_| true),
            Unsynced::First(count) => self.with_edits(|place| place < count),
            Unsynced::Reordered => {
                let life = self.life(random);
                self.with_edits(|place| {
                    place < life.start || (life.contains(&place) && random.bool())
                })
            }
            Unsynced::Torn => self.torn(random),
        }
    }

    /// The durable bytes, and of the other edits those in the `survives` places.
    fn with_edits(&self, mut survives: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (place, (edit, fate)) in self.edits.iter().enumerate() {
            if *fate == Fate::Durable || survives(place) {
                edit.apply(&mut bytes);
            }
        }
        bytes
    }

    /// The edits between two truncations. File systems keep a truncation and what follows it in
    /// order: a file is never made of both what was before and what came after.
    fn life(&self, random: &mut fastrand::Rng) -> std::ops::Range<usize> {
        let moment = random.usize(..=self.edits.len());
        let truncates = |(edit, _): &(Edit, Fate)| matches!(edit, Edit::Truncate);
        let (before, after) = self.edits.split_at(moment);
        let start = before.iter().rposition(truncates).map_or(0, |place| place + 1);
        let end = after.iter().position(truncates).unwrap_or(after.len());
        start..moment + end
    }

    /// Each sector, and the length, as of some moment of its own.
    fn torn(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let life = self.life(random);
        let mut any = || random.usize(life.start..=life.end);
        let moments = [life.start, any(), any(), life.end]
            .map(|moment| self.with_edits(|place| place < moment));
        let mut any = || random.choice(&moments).map_or(&[][..], |moment| moment);
        let mut bytes = vec![0; any().len()];
        for (number, sector) in bytes.chunks_mut(SECTOR).enumerate() {
            let then = any().get(number * SECTOR..).unwrap_or_default();
            sector.iter_mut().zip(then).for_each(|(byte, then)| *byte = *then);
        }
        bytes
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Edit::Truncate => bytes.clear(),
            Edit::Write(offset, written) => {
                let end = offset + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if let Some(place) = bytes.get_mut(*offset..end) {
                    place.copy_from_slice(written);
                }
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create(name, node) => {
                names.insert(name.clone(), *node);
            }
            NameChange::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}
