//! Compiles the CUDA kernels of `src/ops/cuda` where the feature `cuda` is on.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels::compile();
}

#[cfg(feature = "cuda")]
mod kernels {
    const SOURCES: &str = "src/ops/cuda/kernels";

    /// PTX for compute capability 8.0, which the driver compiles for any GPU from that on.
    pub(super) fn compile() {
        println!("cargo:rerun-if-changed={SOURCES}");
        println!("cargo:rerun-if-env-changed=CUDA_HOME");
        let compiled = cudaforge::KernelBuilder::new()
            .source_files([format!("{SOURCES}/kernels.cu")])
            // cargo knows when; the crate looks at one file alone, not at what that includes
            .no_incremental()
            .compute_cap_arch("80")
            .args(["-std=c++17", "-O3"])
            .build_ptx();
        if let Err(error) = compiled {
            println!("cargo::error=the CUDA kernels cannot be compiled (the feature cuda needs nvcc): {error}");
        }
    }
}
