"""The one table: engine by engine, canonical quantity -> the engine's names, newest first."""

from __future__ import annotations

from batchscope.scraping.engines.batchscope import BATCHSCOPE
from batchscope.scraping.engines.dynamo import DYNAMO
from batchscope.scraping.engines.llamacpp import LLAMACPP
from batchscope.scraping.engines.lmdeploy import LMDEPLOY
from batchscope.scraping.engines.max_serve import MAX
from batchscope.scraping.engines.sglang import SGLANG
from batchscope.scraping.engines.tensorrt_llm import TRITON_TENSORRT_LLM, TRTLLM_SERVE
from batchscope.scraping.engines.tgi import TGI
from batchscope.scraping.engines.vllm import RAY_VLLM, VLLM
from batchscope.scraping.table import EngineNames

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
