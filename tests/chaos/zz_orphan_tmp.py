import signal, time, sys
from contextlib import ExitStack
from pathlib import Path
from flows.embedded.broker import Broker
from flows.embedded.milvus_lite import MilvusLiteServer
from tests.chaos.proxy import *
from tests.chaos.scene import *
from tests.integration.running import *
from tests.live.model import make_model
def test_orphan(tmp_path):
    with ExitStack() as st:
        b=Broker(tmp_path/"b"); st.callback(b.stop); b.start()
        m=MilvusLiteServer(tmp_path/"m"); st.callback(m.stop); m.start()
        net=st.enter_context(Proxy(int(m.uri.rpartition(":")[2])))
        model=make_model(tmp_path/"model")
        h1=tmp_path/"1"/"orphan"; h1.mkdir(parents=True); h2=tmp_path/"2"/"orphan"; h2.mkdir(parents=True)
        for h,uri in ((h1,f"http://127.0.0.1:{net.port}"),(h2,m.uri)):
            docs_contract(h,b,uri,model,kafka={"source_batch_size":100},flow={"window_ms":10},recovery={"directory":str(h/"recovery"),"epoch_interval_s":0.3,"partitions":2})
        feed=Feed(b,"orphan",seed=5,rows=100)
        r=PatientReader(m.uri,"orphan",feed.history,hot=True)
        with feed,r:
            with start(h1) as f:
                goes_on(f,r)
                net.become(Fault(requests=Way.HOLD))
                time.sleep(1.0)
                shutil.copytree(h1/"recovery",h2/"recovery") if False else None
                f.send(signal.SIGSTOP)
                import shutil
                shutil.copytree(h1/"recovery",h2/"recovery")
                with start(h2) as g:
                    g.wait_running()
                    print("first:",f.code)
                    goes_on(g,r,300)
                    print("healing", r.faults)
                    net.heal()
                    goes_on(g,r,100)
                    time.sleep(2)
                    final=feed.stop()
                    catches_up(m.uri,"orphan",final)
                    stop_cleanly(g)
        print("FAULTS",len(r.faults), r.faults[:5])
