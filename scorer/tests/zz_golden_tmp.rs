use selfplay_records::*; use selfplay_scorer::*; use std::path::Path;
#[test] fn golden() {
  for line in std::fs::read_to_string("/tmp/work/golden_rows.txt").unwrap().lines() {
    let f: Vec<&str> = line.split('\u{1f}').collect();
    let s = ScoreSettings { tau: Some(f[1].parse().unwrap()), ..Default::default() };
    let m = load(Path::new(&format!("/work/shared/golden/open/models/{}", f[0])), &s, &candle_core::Device::Cpu, None).unwrap();
    let row = Candidates { prompt: Prompt { prompt: Some(f[2].into()), ..Default::default() }, responses: f[3..f.len()-1].iter().map(|t| Response { text: (*t).into(), ..Default::default() }).collect() };
    let got = m.compare(&[row]).unwrap().remove(0);
    let want: Vec<f64> = f[f.len()-1].split(' ').map(|x| x.parse().unwrap()).collect();
    let worst = got.scores.iter().flatten().zip(&want).map(|(a,b)| (a-b).abs()).fold(0.0, f64::max);
    println!("{} worst {worst:e} of {:?}", f[0], &got.scores[0]);
  }
}
