//! The cores that a launcher has bound this process to without being asked.
//!
//! Open MPI's mpirun binds each of one or two processes to one core unless an option says otherwise, which suits programs of one
//! thread. A rank computes with many, and one process alone is to run as without a launcher. So where no option says how to place or to
//! bind processes, and cores would lie idle, the process may run again wherever mpirun itself may; how many of these cores are its
//! share is decided in `threads.rs`.

use std::collections::BTreeSet;

use super::rank::{LaunchedBy, Rank};

/// Open MPI's parameters of which one says how processes are to be placed or bound (4's; PRRTE's of 5): what mpirun's options become in
/// the environment of what it starts.
const WISHES: [&str; 8] = [
    "OMPI_MCA_hwloc_base_binding_policy",
    "OMPI_MCA_hwloc_base_cpu_set",
    "OMPI_MCA_rmaps_base_mapping_policy",
    "OMPI_MCA_rmaps_base_cpus_per_rank",
    "OMPI_MCA_orte_rankfile",
    "PRTE_MCA_hwloc_default_binding_policy",
    "PRTE_MCA_hwloc_default_cpu_list",
    "PRTE_MCA_rmaps_default_mapping_policy",
];

/// Numbers of cores, as the system counts them.
pub(super) type Cores = BTreeSet<usize>;

/// Takes back the cores that nobody wanted to keep from this process. To be called before another thread is there, as each has cores of its
/// own.
pub(super) fn loosen(rank: &Rank) {
    let asked = |name: &&str| std::env::var_os(name).is_some_and(|text| !text.is_empty());
    if rank.launcher != LaunchedBy::OpenMpi || WISHES.iter().any(asked) {
        return;
    }
    if let (Some(own), Some(of_parent)) = (system::own_cores(), system::parent_cores())
        && is_waste(&own, &of_parent, &core_mates(&own), rank.local_world)
    {
        // Where the system refuses, the process runs as it is bound.
        let _ = system::run_on(&of_parent);
    }
}

/// Whether a process is bound to one core (`core_mates`: the numbers that this core has) while cores lie idle of those that
/// `local_world` processes could share.
fn is_waste(own: &Cores, of_parent: &Cores, core_mates: &Cores, local_world: usize) -> bool {
    own.is_subset(of_parent) && own.is_subset(core_mates) && own.len() * local_world.max(1) < of_parent.len()
}

/// The numbers of the core that the first of these belongs to: two or more where it computes several threads at once.
fn core_mates(cores: &Cores) -> Cores {
    let Some(&first) = cores.first() else { return Cores::new() };
    let path = format!("/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list");
    let listed = std::fs::read_to_string(path).ok().and_then(|text| parse_list(text.trim()));
    listed.unwrap_or_else(|| Cores::from([first]))
}

/// Linux's lists of cores: `0-1,8`.
fn parse_list(text: &str) -> Option<Cores> {
    let mut cores = Cores::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cores)
}

/// Cores that the process may run on which started this one.
pub(super) fn parent_cores() -> Option<Cores> {
    system::parent_cores()
}

#[cfg(target_os = "linux")]
mod system {
    use super::Cores;

    pub(super) fn own_cores() -> Option<Cores> {
        cores_of(0)
    }

    pub(super) fn parent_cores() -> Option<Cores> {
        // SAFETY: asks for a number.
        cores_of(unsafe { libc::getppid() })
    }

    /// Of a process; 0 is this thread.
    fn cores_of(process: libc::pid_t) -> Option<Cores> {
        // SAFETY: a set of bits, for which zeros are a value.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes at most the set's size.
        let status = unsafe { libc::sched_getaffinity(process, size_of::<libc::cpu_set_t>(), &raw mut set) };
        // SAFETY: asks for a bit within the set.
        let is_in = |&core: &usize| unsafe { libc::CPU_ISSET(core, &set) };
        let cores: Cores = (0..8 * size_of::<libc::cpu_set_t>()).filter(is_in).collect();
        (status == 0 && !cores.is_empty()).then_some(cores)
    }

    /// Lets this thread, and those that it will start, run on these cores.
    pub(super) fn run_on(cores: &Cores) -> std::io::Result<()> {
        // SAFETY: a set of bits, for which zeros are a value.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &core in cores.iter().filter(|&&core| core < 8 * size_of::<libc::cpu_set_t>()) {
            // SAFETY: sets a bit within the set.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        // SAFETY: reads a whole set.
        let status = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
        if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

/// Where there is no telling.
#[cfg(not(target_os = "linux"))]
mod system {
    use super::Cores;

    pub(super) fn own_cores() -> Option<Cores> {
        None
    }

    pub(super) fn parent_cores() -> Option<Cores> {
        None
    }

    pub(super) fn run_on(_: &Cores) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_of_many_is_waste_and_a_choice_is_not() {
        let of = |cores: std::ops::Range<usize>| cores.collect::<Cores>();
        let is_waste = |own: &Cores, parent: &Cores, world| is_waste(own, parent, &of(0..1), world);
        // mpirun -n 1 on two cores, and -n 2 on 64.
        assert!(is_waste(&of(0..1), &of(0..2), 1) && is_waste(&of(0..1), &of(0..64), 2));
        // Each of two has its share of two cores; nobody is bound; half a machine was given to it on purpose.
        assert!(!is_waste(&of(0..1), &of(0..2), 2));
        assert!(!is_waste(&of(0..2), &of(0..2), 1) && !is_waste(&of(0..32), &of(0..64), 1));
        // Two numbers of one core are one core; and what mpirun itself may not use is not taken.
        assert!(super::is_waste(&of(0..2), &of(0..64), &of(0..2), 2));
        assert!(!is_waste(&of(0..1), &of(1..64), 1));
    }

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse_list("0"), Some(Cores::from([0])));
        assert_eq!(parse_list("0-1,8"), Some(Cores::from([0, 1, 8])));
        assert_eq!(parse_list(""), None);
        assert_eq!(parse_list("0-x"), None);
        assert!(core_mates(&Cores::from([0])).contains(&0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_may_be_bound_and_loosened() {
        let all = system::own_cores().unwrap();
        assert!(!all.is_empty());
        // In a thread of its own: other tests run beside it.
        std::thread::spawn(move || {
            let one: Cores = all.iter().copied().take(1).collect();
            system::run_on(&one).unwrap();
            assert_eq!(system::own_cores().unwrap(), one);
            system::run_on(&all).unwrap();
            assert_eq!(system::own_cores().unwrap(), all);
        })
        .join()
        .unwrap();
    }
}
