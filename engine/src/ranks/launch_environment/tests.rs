use super::*;

fn of(variables: &[(&str, &str)]) -> Result<Rank> {
    let all: Vec<(String, String)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    read(&move |name| all.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
}

fn places(variables: &[(&str, &str)]) -> (usize, usize, usize, usize, LaunchedBy) {
    let rank = of(variables).unwrap();
    (rank.rank, rank.world, rank.local_rank, rank.local_world, rank.launcher)
}

fn refused(variables: &[(&str, &str)], words: &[&str]) {
    let error = of(variables).unwrap_err();
    assert_eq!(error.exit_status(), 2);
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn each_launcher_is_known_by_its_variables() {
    assert_eq!(of(&[]).unwrap(), Rank::ALONE);
    let torchrun = [
        ("RANK", "9"),
        ("WORLD_SIZE", "16"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "8"),
        ("MASTER_ADDR", "node-a"),
        ("MASTER_PORT", "29500"),
    ];
    assert_eq!(places(&torchrun), (9, 16, 1, 8, LaunchedBy::Torchrun));
    assert_eq!(of(&torchrun).unwrap().master.as_deref(), Some("node-a:29500"));
    let open_mpi = [
        ("OMPI_COMM_WORLD_RANK", "3"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ];
    assert_eq!(places(&open_mpi), (3, 4, 1, 2, LaunchedBy::OpenMpi));
    let hydra = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "2")];
    assert_eq!(places(&hydra), (1, 2, 1, 2, LaunchedBy::Pmi));
}

#[test]
fn the_place_on_a_machine_follows_where_it_is_not_named() {
    let plain = [("RANK", "1"), ("WORLD_SIZE", "2")];
    assert_eq!(places(&plain), (1, 2, 1, 2, LaunchedBy::Torchrun));
    // One process on each machine, as some operators start them.
    let spread = [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "node-a")];
    assert_eq!(places(&spread), (1, 2, 0, 1, LaunchedBy::Torchrun));
}

#[test]
fn a_step_of_srun_is_a_launch_and_the_shell_of_a_batch_script_is_none() {
    let step = [
        ("SLURM_PROCID", "5"),
        ("SLURM_NTASKS", "6"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x3)"),
        ("SLURM_NODEID", "2"),
    ];
    assert_eq!(places(&step), (5, 6, 1, 2, LaunchedBy::Slurm));
    let shell = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "0")];
    assert_eq!(of(&shell).unwrap(), Rank::ALONE);
    for own in ["4294967291", "4294967290"] {
        let with_step: Vec<_> = shell.iter().copied().chain([("SLURM_STEP_ID", own)]).collect();
        assert_eq!(of(&with_step).unwrap(), Rank::ALONE, "{own}");
    }
    // mpirun in a batch script.
    let inner = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
    let both: Vec<_> = shell.iter().chain(&inner).copied().collect();
    assert_eq!(places(&both), (1, 2, 1, 2, LaunchedBy::OpenMpi));
}

#[test]
fn pmi_of_srun_s_own_has_slurm_s_place_on_the_machine() {
    let step = [
        ("SLURM_PROCID", "5"),
        ("SLURM_NTASKS", "6"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x3)"),
        ("SLURM_NODEID", "2"),
    ];
    let with = |pmi: &[(&'static str, &'static str)]| -> Vec<_> { step.iter().chain(pmi).copied().collect() };
    let own = with(&[("PMI_RANK", "5"), ("PMI_SIZE", "6")]);
    assert_eq!(places(&own), (5, 6, 1, 2, LaunchedBy::Slurm));
    // mpiexec, whose processes have the variables of the step that started its daemon.
    let inner = [("PMI_RANK", "1"), ("PMI_SIZE", "2")];
    assert_eq!(places(&with(&inner)), (1, 2, 1, 2, LaunchedBy::Pmi));
    let local = with(&[inner[0], inner[1], ("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "1")]);
    assert_eq!(places(&local), (1, 2, 0, 1, LaunchedBy::Pmi));
}

#[test]
fn tasks_of_a_node_are_counted() {
    let each: Vec<Option<usize>> = (0..4).map(|node| tasks_on_node("4(x2),1", node)).collect();
    assert_eq!(each, [Some(4), Some(4), Some(1), None]);
    assert_eq!(tasks_on_node("4(2)", 0), None);
}

#[test]
fn contradictions_and_nonsense_are_named_with_their_values() {
    refused(&[("RANK", "x"), ("WORLD_SIZE", "2")], &["RANK=x", "whole number"]);
    refused(&[("RANK", "-1"), ("WORLD_SIZE", "2")], &["RANK=-1"]);
    refused(&[("RANK", "2"), ("WORLD_SIZE", "2")], &["RANK=2", "WORLD_SIZE=2"]);
    refused(&[("RANK", "1")], &["RANK=1", "WORLD_SIZE is not"]);
    refused(&[("WORLD_SIZE", "4")], &["WORLD_SIZE=4", "RANK is not"]);
    assert_eq!(of(&[("WORLD_SIZE", "1")]).unwrap(), Rank::ALONE);
    let two =
        [("RANK", "0"), ("WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
    refused(&two, &["RANK=0", "OMPI_COMM_WORLD_RANK=1", "unset"]);
    // torchrun inside mpirun counts for itself.
    let elastic: Vec<_> = two.iter().copied().chain([("TORCHELASTIC_RUN_ID", "none")]).collect();
    assert_eq!(places(&elastic).0, 0);
    let local = [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "4"), ("LOCAL_WORLD_SIZE", "2")];
    refused(&local, &["LOCAL_RANK=4", "LOCAL_WORLD_SIZE=2"]);
    refused(&[("SELFPLAY_LAUNCHER", "mpirun")], &["SELFPLAY_LAUNCHER=mpirun", "none"]);
    let ignored: Vec<_> = two.iter().copied().chain([("SELFPLAY_LAUNCHER", "none")]).collect();
    assert_eq!(of(&ignored).unwrap(), Rank::ALONE);
}
