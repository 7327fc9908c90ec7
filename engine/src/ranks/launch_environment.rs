//! What a launcher tells a process in its environment.
//!
//! | launcher | variables |
//! |---|---|
//! | torchrun | RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT |
//! | Open MPI | OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE |
//! | MPICH, Intel MPI | PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS |
//! | srun | SLURM_PROCID, SLURM_STEP_NUM_TASKS (SLURM_NTASKS), SLURM_LOCALID, SLURM_STEP_TASKS_PER_NODE, SLURM_NODEID |
//!
//! The innermost launcher counts: torchrun, else mpirun, else srun, which is also meant where it sets PMI's two numbers and nothing names
//! the place on the machine (`--mpi=pmi2`). Slurm sets SLURM_PROCID and SLURM_NTASKS in the shell of a batch
//! script too, which is one process: only a step of srun's is a launch, and it has a step id of its own. `SELFPLAY_LAUNCHER=none` says
//! that there is none, whatever the variables say.

use super::rank::{LaunchedBy, Rank};
use crate::error::{EngineError, Result};

/// Step ids from here on are Slurm's own: of a batch script's shell, of an interactive one.
const SLURM_OWN_STEPS: u64 = 0xffff_fff0;

/// Reads a variable.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The rank that the environment names.
///
/// # Errors
/// A variable that is no number, or that contradicts another.
pub(super) fn read(variables: Variables<'_>) -> Result<Rank> {
    match variables("SELFPLAY_LAUNCHER").as_deref() {
        None | Some("") => {}
        Some("none") => return Ok(Rank::ALONE),
        Some(other) => return Err(wrong("SELFPLAY_LAUNCHER", other, "none, or no such variable")),
    }
    let by_rank = RankVariables { rank: "RANK", world: "WORLD_SIZE" }.read(variables)?;
    let by_open_mpi =
        RankVariables { rank: "OMPI_COMM_WORLD_RANK", world: "OMPI_COMM_WORLD_SIZE" }.read(variables)?;
    let by_pmi = RankVariables { rank: "PMI_RANK", world: "PMI_SIZE" }.read(variables)?;
    // torchrun on several machines may itself be started by mpirun, once on each of them.
    if variables("TORCHELASTIC_RUN_ID").is_none() {
        agree(by_rank, by_open_mpi)?;
        agree(by_rank, by_pmi)?;
    }
    agree(by_open_mpi, by_pmi)?;
    if let Some(found) = by_rank {
        return found.local(variables, LaunchedBy::Torchrun, "LOCAL_RANK", "LOCAL_WORLD_SIZE");
    }
    if let Some(found) = by_open_mpi {
        let (rank, world) = ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
        return found.local(variables, LaunchedBy::OpenMpi, rank, world);
    }
    if let Some(found) = by_pmi {
        // `srun --mpi=pmi2` sets these as well; the place on the machine is then Slurm's to name.
        if variables("MPI_LOCALRANKID").is_none()
            && let Ok(step) = by_slurm(variables)
            && step.launcher == LaunchedBy::Slurm
            && (step.rank, step.world) == (found.rank, found.world)
        {
            return Ok(step);
        }
        return found.local(variables, LaunchedBy::Pmi, "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
    }
    by_slurm(variables)
}

/// Names of the two variables that every launcher has.
struct RankVariables {
    rank: &'static str,
    world: &'static str,
}

/// What they say.
#[derive(Clone, Copy)]
struct FoundRank {
    names: (&'static str, &'static str),
    rank: usize,
    world: usize,
}

impl RankVariables {
    fn read(self, variables: Variables<'_>) -> Result<Option<FoundRank>> {
        let Self { rank, world } = self;
        match (number(variables, rank)?, number(variables, world)?) {
            (None, None) => Ok(None),
            // One process needs no number.
            (None, Some(1)) => Ok(None),
            (Some(at), None) => Err(EngineError::input(format!(
                "{rank}={at} is set and {world} is not; a launcher sets both, and SELFPLAY_LAUNCHER=none says that there is none"
            ))),
            (None, Some(of)) => Err(EngineError::input(format!(
                "{world}={of} is set and {rank} is not; a launcher sets both, and SELFPLAY_LAUNCHER=none says that there is none"
            ))),
            (Some(at), Some(of)) if at >= of => {
                Err(wrong(rank, &at.to_string(), &format!("a number from 0 to below {world}={of}")))
            }
            (Some(at), Some(of)) => Ok(Some(FoundRank { names: (rank, world), rank: at, world: of })),
        }
    }
}

/// That two launchers, where both are there, say the same.
fn agree(one: Option<FoundRank>, other: Option<FoundRank>) -> Result<()> {
    match (one, other) {
        (Some(one), Some(other)) if (one.rank, one.world) != (other.rank, other.world) => {
            let text = |found: FoundRank| {
                format!("{}={} of {}={}", found.names.0, found.rank, found.names.1, found.world)
            };
            Err(EngineError::input(format!(
                "the environment names two ranks for this process: {} and {}; unset those of the launcher that did not start it",
                text(one),
                text(other)
            )))
        }
        _ => Ok(()),
    }
}

impl FoundRank {
    /// With the place among the machine's processes.
    fn local(
        self,
        variables: Variables<'_>,
        launcher: LaunchedBy,
        rank_name: &str,
        world_name: &str,
    ) -> Result<Rank> {
        let host = variables("MASTER_ADDR").filter(|host| !host.is_empty());
        let on_one_machine =
            host.as_deref().is_none_or(|host| matches!(host, "localhost" | "127.0.0.1" | "::1"));
        let (local_rank, local_world) = match (number(variables, rank_name)?, number(variables, world_name)?)
        {
            (Some(rank), Some(world)) => (rank, world),
            (Some(rank), None) if on_one_machine || rank == self.rank => (rank, self.world),
            (Some(rank), None) => (rank, rank + 1),
            // Who names a machine for rank 0 and no place on it starts one process on each.
            (None, _) if on_one_machine => (self.rank, self.world),
            (None, _) => (0, 1),
        };
        if local_rank >= local_world || local_world > self.world {
            let want = format!(
                "a number below {world_name}={local_world}, itself at most {}={}",
                self.names.1, self.world
            );
            return Err(wrong(rank_name, &local_rank.to_string(), &want));
        }
        let master = host.map(|host| match variables("MASTER_PORT") {
            Some(port) => format!("{host}:{port}"),
            None => host,
        });
        Ok(Rank { rank: self.rank, world: self.world, local_rank, local_world, launcher, master })
    }
}

/// A step of srun's.
fn by_slurm(variables: Variables<'_>) -> Result<Rank> {
    let step = match number(variables, "SLURM_STEP_ID")? {
        Some(step) => Some(step),
        None => number(variables, "SLURM_STEPID")?,
    };
    if step.is_none_or(|step| step as u64 >= SLURM_OWN_STEPS) {
        return Ok(Rank::ALONE);
    }
    let tasks = match variables("SLURM_STEP_NUM_TASKS") {
        Some(_) => "SLURM_STEP_NUM_TASKS",
        None => "SLURM_NTASKS",
    };
    let Some(found) = (RankVariables { rank: "SLURM_PROCID", world: tasks }).read(variables)? else {
        return Ok(Rank::ALONE);
    };
    let local_rank = number(variables, "SLURM_LOCALID")?;
    let of_node = number(variables, "SLURM_NODEID")?.unwrap_or(0);
    let on_node = variables("SLURM_STEP_TASKS_PER_NODE").and_then(|text| tasks_on_node(&text, of_node));
    let local_world = match (on_node, number(variables, "SLURM_STEP_NUM_NODES")?) {
        (Some(tasks), _) => tasks,
        (None, Some(nodes)) => found.world.div_ceil(nodes.max(1)),
        (None, None) => found.world,
    };
    let local_rank = local_rank.unwrap_or(found.rank % local_world.max(1));
    if local_rank >= local_world {
        let want = format!("a number below the {local_world} tasks of this node");
        return Err(wrong("SLURM_LOCALID", &local_rank.to_string(), &want));
    }
    Ok(Rank {
        rank: found.rank,
        world: found.world,
        local_rank,
        local_world,
        launcher: LaunchedBy::Slurm,
        master: variables("SLURM_LAUNCH_NODE_IPADDR").filter(|host| !host.is_empty()),
    })
}

/// Of `4(x2),1` the tasks of a node: 4, 4, 1.
fn tasks_on_node(text: &str, node: usize) -> Option<usize> {
    let mut before = 0;
    for part in text.split(',') {
        let (tasks, times) = match part.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1_usize),
        };
        let tasks: usize = tasks.trim().parse().ok()?;
        before += times;
        if node < before {
            return Some(tasks);
        }
    }
    None
}

fn number(variables: Variables<'_>, name: &str) -> Result<Option<usize>> {
    match variables(name) {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(wrong(name, &text, "a whole number, as a launcher sets it")),
        },
    }
}

fn wrong(name: &str, value: &str, want: &str) -> EngineError {
    EngineError::input(format!("{name}={value}: expected {want}"))
}

#[cfg(test)]
mod tests;
