import sys,os,json,tempfile,numpy as np,onnxruntime as ort,collections
from check_zoo import inputs_of
from pathlib import Path
from onnx_fusion.runtime.library import get_library_path
m=sys.argv[1]; runs=int(sys.argv[2]); top=int(sys.argv[3])
f=next(p for p in (f'/work/scratch/zoo/real/{m}.onnx',f'/work/scratch/zoo/models/{m}.ts17.onnx') if os.path.exists(p))
feeds=inputs_of(Path(f))
for p,lib in ((f,0),(f'/work/scratch/small/o_{m}.onnx',1)):
    o=ort.SessionOptions(); o.intra_op_num_threads=1; o.log_severity_level=4; o.enable_profiling=True; o.profile_file_prefix=tempfile.mktemp(); o.add_session_config_entry("onnx_fusion.names","1024")
    if lib: o.register_custom_ops_library(get_library_path())
    s=ort.InferenceSession(p,o,["CPUExecutionProvider"])
    fd={i.name:feeds[i.name] for i in s.get_inputs()}
    for _ in range(runs): s.run(None,fd)
    fn=s.end_profiling(); ev=json.load(open(fn)); os.remove(fn)
    d=collections.defaultdict(list); info={}
    for e in ev:
        if e.get("cat")=="Node" and e["name"].endswith("_kernel_time"): d[e["name"][:-12]].append(e["dur"]); info[e["name"][:-12]]=e["args"]
    t={k:np.percentile(v,20) for k,v in d.items()}
    sh=lambda l:' '.join('x'.join(map(str,list(x.values())[0])) for x in l[:3])
    print('OURS' if lib else 'ORT',len(t),sum(t.values()))
    for k,v in sorted(t.items(),key=lambda x:-x[1])[:top]: print(f"{v:9.0f} {info[k]['op_name']:18} {k[-50:]:50} {sh(info[k].get('input_type_shape',[]))} -> {sh(info[k].get('output_type_shape',[]))}")
