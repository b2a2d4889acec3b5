//! A conflict as one sentence: what happened, to which key, and what to do next.

use std::fmt;
use std::time::SystemTime;

use crate::clock::Span;
use crate::conflict::{Conflict, HeldKey, Reason};
use crate::entity::Metadata;
use crate::lease::EXPIRY;
use crate::precondition::Precondition;
use crate::rebase::say_places;
use crate::version::Version;

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, conflict) in self.all().enumerate() {
            if place > 0 {
                f.write_str(". ")?;
            }
            let stale = conflict.reason == Reason::StaleVersion;
            conflict.say(f, conflict.changed().filter(|_| stale).as_deref())?;
        }
        Ok(())
    }
}

impl Conflict {
    /// The sentence, where it is known already what [`changed`](Conflict::changed): to find out
    /// takes a pass over the values.
    #[cfg(feature = "http")]
    pub(crate) fn sentence(&self, changed: Option<&[String]>) -> String {
        fmt::from_fn(|f| self.say(f, changed)).to_string()
    }

    fn say(&self, f: &mut fmt::Formatter<'_>, changed: Option<&[String]>) -> fmt::Result {
        let (collection, key) = (&self.collection, &self.key);
        match (self.reason, &self.operation) {
            (Reason::InProgress, Some(it)) => return it.say_in_progress(f, self.decided_at),
            (Reason::Fenced, Some(it)) => return it.say_fenced(f, self.decided_at),
            _ => write!(f, "{collection}/{key} ")?,
        }
        match self.reason {
            Reason::StaleVersion => self.say_stale(f, changed.unwrap_or_default()),
            Reason::AlreadyExists => self.say_exists(f),
            Reason::Absent => f.write_str("does not exist; create it, or check the key"),
            Reason::Deleted => self.say_deleted(f),
            Reason::Contended => self.say_contended(f),
            Reason::WrongState => self.say_wrong_state(f),
            Reason::Duplicate => self.say_duplicate(f),
            Reason::Locked => self.say_locked(f),
            Reason::Fenced => self.say_fenced(f),
            Reason::InProgress => f.write_str("is in progress; wait for it"),
        }
    }

    fn say_wrong_state(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Precondition::State(predicate) = &self.unmet {
            write!(f, "is not in the state {:?}", predicate.name())?;
        }
        if let Some(current) = self.current_metadata() {
            let (author, age) = (author(current), self.age(current));
            write!(f, ", at version {}: {author} wrote it {age} ago", current.version)?;
        }
        f.write_str("; read it again and decide anew")
    }

    fn say_stale(&self, f: &mut fmt::Formatter<'_>, changed: &[String]) -> fmt::Result {
        let Some(current) = self.current_metadata() else {
            return f.write_str("has changed; read it again and retry");
        };
        write!(f, "is at version {}", current.version)?;
        match &self.unmet {
            Precondition::UnmodifiedSince(_) => f.write_str(", written since the time named")?,
            unmet => say_list(f, ", not ", unmet.versions())?,
        }
        write!(f, ": {} changed ", author(current))?;
        say_places(f, changed)?;
        write!(f, " {} ago", self.age(current))?;
        f.write_str("; read it again and retry")
    }

    fn say_exists(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(current) = self.current_metadata() else {
            return f.write_str("exists already; choose another key, or replace it");
        };
        let (author, age) = (author(current), self.age(current));
        write!(f, "exists already, at version {}: {author} wrote it {age} ago", current.version)?;
        f.write_str("; choose another key, or replace that version")
    }

    fn say_deleted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(deletion) = &self.deletion else {
            return f.write_str("was deleted; read it again and decide anew");
        };
        let author = deletion.deleted_by().unwrap_or("somebody");
        let age = Span(self.decided_at.since(deletion.deleted_at));
        write!(f, "was deleted in version {}: {author} did it {age} ago", deletion.version)?;
        f.write_str("; read it again and decide anew")
    }

    fn say_contended(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(effort) = self.effort else {
            return f.write_str("is contended; try again later");
        };
        let (attempts, elapsed) = (effort.attempts, Span(effort.elapsed));
        write!(f, "changed under each of {attempts} attempts within {elapsed}")?;
        f.write_str("; try again later, or raise the retry budget")
    }

    fn say_duplicate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot be written: ")?;
        let Some(HeldKey { index, holder, within }) = &self.duplicate else {
            return f.write_str("another entity holds an index key of it; choose another value");
        };
        let collection = &self.collection;
        match within {
            true => {
                write!(f, "the same transaction gives {collection}/{holder} the same {index}")?;
                f.write_str("; choose another value for one of them")
            }
            false => {
                write!(f, "{collection}/{holder} holds the same {index}")?;
                f.write_str("; choose another value, or change that entity first")
            }
        }
    }

    fn say_locked(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(lease) = self.lease() else {
            return f.write_str("is held by somebody; try again later");
        };
        let holder = lease.holder().unwrap_or("somebody");
        write!(f, "is held by {holder}")?;
        if let Some(reason) = lease.reason() {
            write!(f, " ({reason:?})")?;
        }
        let operation = lease.operation_kind().zip(lease.operation());
        if let Some((kind, id)) = operation {
            write!(f, " during {kind} {id},")?;
        }
        let since = Span(self.decided_at.since(lease.since().into()));
        write!(f, " for another {}, since {since} ago; try again then, ", Span(lease.remaining()))?;
        match operation {
            Some(_) => f.write_str("or when that has ended"),
            None => write!(f, "or ask {}", lease.holder().unwrap_or("the holder")),
        }
    }

    fn say_fenced(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(barred) = &self.barred else {
            return f.write_str("is not known, or not any more; stop, or begin anew");
        };
        let ago = |time: SystemTime| Span(self.decided_at.since(time.into()));
        f.write_str("is not held ")?;
        if let Some(token) = barred.token {
            write!(f, "by lease {token} ")?;
        }
        f.write_str("any more: ")?;
        match (&barred.lease, &barred.ended) {
            (Some(lease), _) if barred.own => {
                write!(f, "it expired {} ago", ago(lease.expires_at()))?;
            }
            (Some(lease), _) => {
                let holder = lease.holder().unwrap_or("somebody");
                write!(f, "{holder} has taken one {} ago", ago(lease.since()))?;
            }
            (None, Some(end)) if end.deleted_by() == Some(EXPIRY) => {
                write!(f, "it has expired, as was found {} ago", ago(end.deleted_at()))?;
            }
            (None, Some(end)) => write!(f, "it was given back {} ago", ago(end.deleted_at()))?,
            (None, None) => f.write_str("it has ended")?,
        }
        f.write_str("; take a new one, and read the key again")
    }

    fn age(&self, current: &Metadata) -> Span {
        Span(self.decided_at.since(current.written_at))
    }
}

fn author(current: &Metadata) -> &str {
    current.written_by().unwrap_or("somebody")
}

/// As many versions of a list are printed.
const PRINTED: usize = 4;

/// `, not 1`, `, not 1 or 2`; nothing for an empty list.
fn say_list(f: &mut fmt::Formatter<'_>, intro: &str, versions: &[Version]) -> fmt::Result {
    for (place, version) in versions.iter().take(PRINTED).enumerate() {
        let joint = if place == 0 { intro } else { " or " };
        write!(f, "{joint}{version}")?;
    }
    match versions.len().saturating_sub(PRINTED) {
        0 => Ok(()),
        more => write!(f, " or {more} others"),
    }
}
