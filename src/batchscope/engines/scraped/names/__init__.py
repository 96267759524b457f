"""The one table: engine by engine, canonical quantity -> the engine's names, newest first."""

from __future__ import annotations

from batchscope.engines.scraped.names.batchscope import BATCHSCOPE
from batchscope.engines.scraped.names.dynamo import DYNAMO
from batchscope.engines.scraped.names.llamacpp import LLAMACPP
from batchscope.engines.scraped.names.lmdeploy import LMDEPLOY
from batchscope.engines.scraped.names.max_serve import MAX
from batchscope.engines.scraped.names.sglang import SGLANG
from batchscope.engines.scraped.names.tensorrt_llm import TRITON_TENSORRT_LLM, TRTLLM_SERVE
from batchscope.engines.scraped.names.tgi import TGI
from batchscope.engines.scraped.names.vllm import RAY_VLLM, VLLM
from batchscope.engines.scraped.quantities import EngineNames

ENGINES: tuple[EngineNames, ...] = (
    VLLM,
    SGLANG,
    TGI,
    LLAMACPP,
    TRTLLM_SERVE,
    TRITON_TENSORRT_LLM,
    LMDEPLOY,
    RAY_VLLM,
    DYNAMO,
    MAX,
    BATCHSCOPE,
)
