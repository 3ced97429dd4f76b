//! The faults, and how they are drawn.

use std::fmt;
use std::time::Duration;

use crate::hosts::Cut;

/// What is killed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The agent of a compute node; its supervisors live on.
    Agent,
    /// The supervisors of a compute node; its agent lives on.
    Supervisors,
    /// A compute node's agent and all its supervisors.
    Node,
    /// The scheduler that leads.
    Leader,
    /// All schedulers.
    Schedulers,
    /// The message node.
    MessageNode,
    /// All processes of PostgreSQL.
    Postgres,
    /// The gateway that clients use.
    Gateway,
    /// Everything of the network.
    Everything,
}

/// Whose link or disk is hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// A compute node's.
    Node,
    /// That of the scheduler that leads.
    Leader,
    /// The message node's.
    MessageNode,
    /// PostgreSQL's.
    Postgres,
}

/// What dies while a program moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing.
    Nothing,
    /// The node that it moves from, agent and supervisors.
    Source,
    /// The node that it moves to.
    Target,
    /// The scheduler that leads.
    Leader,
}

/// Something that happens to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a start some time later.
    Kill(Part),
    /// SIGSTOP, and SIGCONT some time later.
    Stop(Part),
    /// A link that does not do what links should.
    Link(Host, Cut),
    /// Not one byte is left.
    FullDisk(Host),
    /// A program is moved to another node, with its data if it has any.
    Move(Meanwhile),
}

impl Fault {
    /// All faults there are.
    pub fn all() -> Vec<Self> {
        let parts = [
            Part::Agent,
            Part::Supervisors,
            Part::Node,
            Part::Leader,
            Part::Schedulers,
            Part::MessageNode,
            Part::Postgres,
            Part::Gateway,
        ];
        let cuts = [Cut::Down, Cut::Silent, Cut::NoOut, Cut::NoIn, Cut::Slow, Cut::Lossy];
        let hosts = [Host::Node, Host::Leader, Host::MessageNode, Host::Postgres];
        let kills = parts.into_iter().chain([Part::Everything]).map(Self::Kill);
        let stops = parts.into_iter().map(Self::Stop);
        let links = hosts.into_iter().flat_map(|host| cuts.map(|cut| Self::Link(host, cut)));
        let disks = [Host::Node, Host::MessageNode, Host::Postgres].map(Self::FullDisk);
        let moves = [Meanwhile::Nothing, Meanwhile::Source, Meanwhile::Target, Meanwhile::Leader].map(Self::Move);
        kills.chain(stops).chain(links).chain(disks).chain(moves).collect()
    }

    /// Whether nobody can take over before it is healed: what runs goes on for its lease only, and is back after that.
    pub fn needs_healing(self) -> bool {
        match self {
            Self::Kill(part) | Self::Stop(part) => {
                matches!(part, Part::Schedulers | Part::Postgres | Part::Everything)
            }
            Self::Link(host, _) | Self::FullDisk(host) => matches!(host, Host::Postgres),
            Self::Move(_) => false,
        }
    }

    /// Whether things go on, only worse: what is interrupted may be so at any time.
    pub fn is_partial(self) -> bool {
        matches!(self, Self::Link(_, Cut::Slow | Cut::Lossy))
    }

    /// Whether it hits one compute node.
    pub fn hits_a_node(self) -> bool {
        match self {
            Self::Kill(part) | Self::Stop(part) => matches!(part, Part::Agent | Part::Supervisors | Part::Node),
            Self::Link(host, _) | Self::FullDisk(host) => matches!(host, Host::Node),
            Self::Move(meanwhile) => matches!(meanwhile, Meanwhile::Source),
        }
    }

    /// How long it lasts: some shorter than a lease, some longer. What is stopped is stopped for longer.
    pub fn duration(self, lease: Duration, chance: &mut fastrand::Rng) -> Duration {
        let long = matches!(self, Self::Stop(_)) || chance.bool();
        lease.mul_f64(if long { 1.3 + chance.f64() } else { 0.1 + chance.f64() * 0.5 })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(part) => write!(f, "kill -9: {part}"),
            Self::Stop(part) => write!(f, "SIGSTOP: {part}"),
            Self::Link(host, cut) => {
                let how = match cut {
                    Cut::Down => "link down",
                    Cut::Silent => "partition, both ways",
                    Cut::NoOut => "partition, what it sends",
                    Cut::NoIn => "partition, what it receives",
                    Cut::Slow => "slow link",
                    Cut::Lossy => "lossy link",
                };
                write!(f, "{how}: {host}")
            }
            Self::FullDisk(host) => write!(f, "full disk: {host}"),
            Self::Move(meanwhile) => write!(f, "planned move: {meanwhile}"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Supervisors => "supervisors of a node",
            Self::Node => "agent and supervisors",
            Self::Leader => "scheduler that leads",
            Self::Schedulers => "all schedulers",
            Self::MessageNode => "message node",
            Self::Postgres => "PostgreSQL",
            Self::Gateway => "gateway",
            Self::Everything => "everything at once",
        })
    }
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing else",
            Self::Source => "kill -9 of the source",
            Self::Target => "kill -9 of the target",
            Self::Leader => "kill -9 of the leader",
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "compute node",
            Self::Leader => "scheduler that leads",
            Self::MessageNode => "message node",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// Faults in an order that chance gave: all of them once, then all of them again.
pub struct Deck {
    kinds: Vec<Fault>,
    left: Vec<Fault>,
}

impl Deck {
    /// A deck of these faults.
    pub fn new(kinds: Vec<Fault>) -> Self {
        Self { kinds, left: Vec::new() }
    }

    /// The next one; none of an empty deck.
    pub fn draw(&mut self, chance: &mut fastrand::Rng) -> Option<Fault> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            chance.shuffle(&mut self.left);
        }
        self.left.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_before_one_comes_again() {
        let (mut deck, mut chance) = (Deck::new(Fault::all()), fastrand::Rng::with_seed(1));
        let kinds = Fault::all().len();
        let mut names: Vec<_> = (0..kinds).filter_map(|_| Some(deck.draw(&mut chance)?.to_string())).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), kinds, "each has a name of its own");
    }

    #[test]
    fn what_is_stopped_is_stopped_for_longer_than_a_lease() {
        let (lease, mut chance) = (Duration::from_secs(3), fastrand::Rng::with_seed(1));
        assert!((0..100).all(|_| Fault::Stop(Part::Agent).duration(lease, &mut chance) > lease));
    }
}
