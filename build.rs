//! Compiles the CUDA kernels of `src/ops/cuda` where the feature `cuda` is on.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels::compile();
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::path::Path;
    use std::process::Command;

    const SOURCES: &str = "src/ops/cuda/kernels";

    /// Machine code for compute capabilities 8.x and 9.0, and PTX, which a driver compiles for what comes after them.
    const TARGETS: [&str; 2] = ["arch=compute_80,code=[sm_80,compute_80]", "arch=compute_90,code=sm_90"];

    pub(super) fn compile() {
        println!("cargo:rerun-if-changed={SOURCES}");
        println!("cargo:rerun-if-env-changed=NVCC");
        println!("cargo:rerun-if-env-changed=PATH");
        // the build of cuBLAS's bindings asks the nvcc on the path for its version, so that is there
        let nvcc = std::env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
        let out = std::env::var_os("OUT_DIR").unwrap_or_default();
        let mut command = Command::new(&nvcc);
        command.args(["-fatbin", "-std=c++17", "-O3"]);
        command.args(TARGETS.iter().flat_map(|target| ["-gencode", target]));
        command.arg("-o").arg(Path::new(&out).join("kernels.fatbin")).arg(format!("{SOURCES}/kernels.cu"));
        let fault = match command.output() {
            Ok(output) if output.status.success() => return,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        println!(
            "cargo::error=the CUDA kernels cannot be compiled by {}: {}",
            nvcc.display(),
            fault.replace('\n', " | ")
        );
    }
}
