"""The SQL that is captured: tables, the rows of the initial snapshot, and cases run one by one.

A statement that begins with `A: ` or `B: ` runs in a session of that name, any other in the main one.
The corpus stores the name of a case with every message that its SQL caused. Add new cases at the end,
because each case starts from the rows that the cases before it left.
"""

from typing import NamedTuple

LONG = "repeat('Lorem ipsum dolor sit amet, ', 400)"
"""11,200 characters in SQL: stored out of line where the column's storage is EXTERNAL."""

SNAPSHOT = "01_snapshot"

EXCLUDED = "other"
"""A table that the connector is configured to leave out."""

LATER = "later"
"""A table that is created while the connector streams."""

DDL = (
    "create extension vector",
    "create extension hstore",
    "create extension citext",
    "create type mood as enum ('sad','ok','happy')",
    "create domain label as varchar(40) check (value <> 'forbidden')",
    "create table articles(id int primary key, title text, body text, tags text[],"
    " price numeric(10,2), views bigint, published boolean, created_at timestamptz,"
    " updated_at timestamp, day date, tod time, meta jsonb, uid uuid, raw bytea,"
    " ratio double precision, r4 real, m mood, emb vector(3))",
    "create table order_items(order_id int, line_no int, product text, qty int,"
    " primary key(order_id,line_no))",
    "create table docs_default(id bigint generated always as identity primary key,"
    " title text, body text)",
    "alter table docs_default alter body set storage external",
    "create table docs_full(id bigint primary key, title text, body text)",
    "alter table docs_full alter body set storage external",
    "alter table docs_full replica identity full",
    "create table docs_index(id bigint primary key, slug text not null unique, title text)",
    "alter table docs_index replica identity using index docs_index_slug_key",
    "create table nopk_full(a int, b text)",
    "alter table nopk_full replica identity full",
    "create table nopk_default(a int, b text)",
    "create table users(email text primary key, name text)",
    "create table parted(id int, region text, note text, primary key(id,region))"
    " partition by list(region)",
    "create table parted_eu partition of parted for values in ('eu')",
    "create table parted_us partition of parted for values in ('us')",
    'create table "Mixed Case"("Id" int primary key, "Full Name" text)',
    "create table debezium_signal(id varchar(64) primary key, type varchar(32) not null,"
    " data varchar(2048))",
    "create table inc(id int primary key, v text)",
    "create table other(id int primary key, v text)",
    "insert into inc select g,'row '||g from generate_series(1,7) g",
    # The tables from here on are not in the corpus files that were captured by other means.
    "create table toasted(id int primary key, title text, body text, tags text[], nums int[],"
    " uids uuid[], meta jsonb, plain json, raw bytea, attrs hstore)",
    "create table toasted_more(id int primary key, title text, prices numeric(10,2)[],"
    " stamps timestamptz[], days date[], flags boolean[], ratios double precision[], bigs bigint[],"
    " big numeric, bits bit varying, nocase citext, emb vector(2000), words varchar[])",
    *(
        f"alter table {table} alter {column} set storage external"
        for table, columns in (
            ("toasted", "body tags nums uids meta plain raw attrs"),
            ("toasted_more", "prices stamps days flags ratios bigs big bits nocase emb words"),
        )
        for column in columns.split()
    ),
    "create table kinds(id int primary key, cost money, flag bit, flags bit(10), wide bit varying(70),"
    " span interval, addr inet, net cidr, mac macaddr, place point, ints int4range,"
    " big numeric, exact numeric(38,10), whole numeric(20,0), small smallint, tag varchar(20),"
    " fixed char(5), named label, nocase citext, ttz timetz, ts0 timestamp(0), ts3 timestamp(3),"
    " tz3 timestamptz(3), t3 time(3), attrs hstore, plain json, nums int[], prices numeric(10,2)[],"
    " flagset boolean[], days date[], stamps timestamptz[], moods mood[])",
    "create table swapped(id bigint primary key, title text, body text)",
    "alter table swapped alter body set storage external",
    "create table areas(id int, region text, title text, body text, primary key(id,region))"
    " partition by list(region)",
    "create table areas_eu partition of areas for values in ('eu')",
    "create table areas_us partition of areas for values in ('us')",
    "alter table areas_eu alter body set storage external",
    "alter table areas_us alter body set storage external",
    "create table computed(id int primary key, title text, qty int, price numeric(10,2),"
    " total numeric(12,2) generated always as (qty * price) stored)",
    "create table flagged(id int primary key, title text, deleted boolean not null default false,"
    " deleted_at timestamptz)",
    "create table flagged_docs(id int primary key, title text, body text, deleted boolean)",
    "alter table flagged_docs alter body set storage external",
    "create table renamed(id int primary key, body text)",
    "create table parents(id int primary key, name text)",
    "create table children(id int primary key, parent int references parents on delete cascade"
    " on update cascade, name text)",
    "create table keyed(u uuid, n numeric(10,2), d date, t timestamptz, b boolean, note text,"
    " primary key(u,n,d,t,b))",
    "create table emptied(id int primary key, v text)",
    "create table late_identity(a int, b text)",
)

SEED = (
    "insert into articles values (1,'First','Hello world',array['a','b'],12.34,9007199254740993,true,"
    "'2024-01-02 03:04:05.678901+00','2024-01-02 03:04:05.678901','2024-01-02','03:04:05.5',"
    "'{\"k\":[1,2.50,null]}','a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11','\\xdeadbeef',0.1,0.1,'happy',"
    "'[1,2.5,-3]')",
    "insert into articles(id,title) values (2,null)",
    "insert into articles(id,title,body) values"
    " (3,'Ünïcödé 漢字 🎉 \"quotes\" \\back\\ '||chr(10)||'newline','')",
    "insert into order_items values (1,1,'apple',2),(1,2,'pear',5)",
    f"insert into docs_default(title,body) values ('d1',{LONG})",
    f"insert into docs_full values (1,'f1',{LONG})",
    "insert into docs_index values (1,'slug-1','i1')",
    "insert into nopk_full values (1,'x')",
    "insert into nopk_default values (1,'x')",
    "insert into users values ('a@example.com','Ann')",
    "insert into parted values (1,'eu','n1'),(2,'us','n2')",
    "insert into \"Mixed Case\" values (1,'Jane Doe')",
    "insert into toasted select 1,'t1',"
    f"{LONG}, array_agg('tag '||g), array_agg(g), array_agg(md5(g::text)::uuid),"
    " jsonb_build_object('list', jsonb_agg(g)), json_build_object('list', json_agg(g)),"
    " decode(repeat('deadbeef',1500),'hex'), hstore('key', repeat('value ', 1000))"
    " from generate_series(1,1500) g",
    "insert into toasted_more select 1,'m1', array_agg(g::numeric(10,2)),"
    " array_agg(timestamptz '2024-01-02 03:04:05.678901+00') filter (where g <= 1000),"
    " array_agg(date '2024-01-02'),"
    " array_agg(g % 2 = 0), array_agg(g / 2.0::float8), array_agg(g::bigint),"
    " repeat('1234567890',600)::numeric, repeat('10',9000)::bit varying, repeat('CaSe',2000),"
    " (array_agg(g::real))[1:2000]::vector(2000), array_agg('word '||g)"
    " from generate_series(1,3000) g",
    "insert into kinds(id,cost,flag,flags,wide,span,addr,net,mac,place,ints,big,exact,whole,small,"
    "tag,fixed,named,nocase,ttz,ts0,ts3,tz3,t3,attrs,plain,nums,prices,flagset,days,stamps,moods)"
    " values (1,1234.56,B'1',B'1010101010',B'110',interval '1 year 2 months 3 days 04:05:06.789',"
    "'192.168.0.1/24','10.0.0.0/8','08:00:2b:01:02:03','(1.5,-2)','[1,5)',"
    "123456789012345678901234567890.123456789,1234567890123456789012345678.0123456789,"
    "12345678901234567890,-32768,'tag','ab','lab','CaSe','03:04:05.678901+02',"
    "'2024-01-02 03:04:05','2024-01-02 03:04:05.678','2024-01-02 03:04:05.678+02','03:04:05.678',"
    '\'a=>1,"b c"=>"d e",n=>NULL\',\'{"z": 1, "a": [1.50]}\',array[1,null,3],array[1.10,null],'
    "array[true,false],array[date '2024-01-02'],"
    "array[timestamptz '2024-01-02 03:04:05.678901+00'],array['ok','sad']::mood[])",
    "insert into kinds(id) values (2)",
    f"insert into swapped values (1,'s1','one '||{LONG}),(2,'s2','two '||{LONG})",
    f"insert into areas values (1,'eu','a1',{LONG})",
    "insert into computed(id,title,qty,price) values (1,'c1',3,1.25)",
    "insert into flagged(id,title) values (1,'here'),(2,'too')",
    f"insert into flagged_docs values (1,'f1',{LONG},false),(2,'f2',{LONG},false)",
    "insert into renamed values (1,'body one'),(2,'body two')",
    "insert into parents values (1,'p1'),(2,'p2')",
    "insert into children values (1,1,'c1'),(2,1,'c2'),(3,2,'c3')",
    "insert into keyed values ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',1.50,'2024-01-02',"
    "'2024-01-02 03:04:05.678901+00',true,'k1')",
    "insert into emptied values (1,'e1'),(2,'e2')",
    "insert into late_identity values (1,'x')",
)


class Case(NamedTuple):
    """One step of the history.

    Attributes:
        sql: Statements, run one after another in autocommit mode.
        reads: Least number of rows sent by the snapshot that the SQL starts, which runs asynchronously.
    """

    name: str
    sql: tuple[str, ...]
    reads: int = 0


def _signal(id_: str, what: str) -> str:
    data = f'{{"data-collections": ["public.inc"], {what}}}'
    return f"insert into debezium_signal values ('{id_}','execute-snapshot','{data}')"


CASES = (
    Case(
        "02_insert",
        (
            "insert into articles(id,title,body,price,published)"
            " values (10,'New','Body text',99.90,false)",
        ),
    ),
    Case("03_update", ("update articles set title='Newer', views=5 where id=10",)),
    Case("04_update_noop", ("update articles set title=title where id=10",)),
    Case("05_update_to_null", ("update articles set body=null where id=10",)),
    Case("06_delete", ("delete from articles where id=10",)),
    Case(
        "07_pk_change",
        ("update users set email='ann@example.com' where email='a@example.com'",),
    ),
    Case(
        "08_pk_change_composite",
        ("update order_items set line_no=9, qty=3 where order_id=1 and line_no=2",),
    ),
    Case("09_toast_unchanged_default", ("update docs_default set title='d1b' where id=1",)),
    Case(
        "10_toast_changed_default",
        (
            "update docs_default set body='short now' where id=1",
            f"update docs_default set body={LONG} where id=1",
        ),
    ),
    Case("11_toast_unchanged_full", ("update docs_full set title='f1b' where id=1",)),
    Case("12_toast_pk_change_default", ("update docs_default set id=default where id=1",)),
    Case("13_toast_pk_change_full", ("update docs_full set id=2 where id=1",)),
    Case(
        "14_full_identity_update_delete",
        (
            "insert into docs_full values (5,'a','b')",
            "update docs_full set title='aa' where id=5",
            "delete from docs_full where id=5",
        ),
    ),
    Case(
        "15_index_identity",
        (
            "update docs_index set title='i2' where id=1",
            "update docs_index set slug='slug-2' where id=1",
            "update docs_index set id=2 where slug='slug-2'",
            "delete from docs_index where slug='slug-2'",
        ),
    ),
    Case(
        "16_nopk_full",
        (
            "insert into nopk_full values (2,'y')",
            "update nopk_full set b='z' where a=2",
            "delete from nopk_full where a=2",
        ),
    ),
    Case("17_nopk_default_insert", ("insert into nopk_default values (2,'y')",)),
    Case(
        "18_multi_row_tx",
        (
            "begin",
            "insert into articles(id,title) values (20,'t20'),(21,'t21'),(22,'t22')",
            "update articles set title='t20b' where id=20",
            "update articles set title='t20c' where id=20",
            "insert into order_items values (7,1,'fig',1)",
            "delete from articles where id=21",
            "commit",
        ),
    ),
    Case(
        "19_rollback", ("begin", "insert into articles(id,title) values (30,'never')", "rollback")
    ),
    Case(
        "20_savepoint_rollback",
        (
            "begin",
            "insert into articles(id,title) values (31,'kept')",
            "savepoint s",
            "insert into articles(id,title) values (32,'never')",
            "rollback to s",
            "commit",
        ),
    ),
    Case(
        "21_delete_insert_same_pk_tx",
        (
            "begin",
            "delete from articles where id=22",
            "insert into articles(id,title) values (22,'reborn')",
            "commit",
        ),
    ),
    Case(
        "22_pk_swap_tx",
        (
            "begin",
            "update users set email='tmp' where email='ann@example.com'",
            "update users set email='ann@example.com' where email='tmp'",
            "commit",
        ),
    ),
    Case(
        "23_upsert",
        (
            "insert into users values ('ann@example.com','Ann2')"
            " on conflict(email) do update set name=excluded.name",
            "insert into users values ('bob@example.com','Bob')"
            " on conflict(email) do update set name=excluded.name",
            "insert into users values ('bob@example.com','Bob') on conflict do nothing",
        ),
    ),
    Case("24_truncate", ("truncate order_items",)),
    Case(
        "25_truncate_two_tables",
        ("insert into nopk_full values (5,'q')", "truncate nopk_full, nopk_default"),
    ),
    Case(
        "26_alter_add_column",
        (
            "alter table articles add column lang text default 'en'",
            "insert into articles(id,title) values (40,'after add')",
            "update articles set title='First!' where id=1",
        ),
    ),
    Case(
        "27_alter_rename_drop_column",
        (
            "alter table users rename column name to full_name",
            "update users set full_name='Ann3' where email='ann@example.com'",
            "alter table users add column age int",
            "insert into users values ('c@example.com','Cy',33)",
            "alter table users drop column age",
            "update users set full_name='Cy2' where email='c@example.com'",
        ),
    ),
    Case(
        "28_alter_type",
        (
            "alter table inc alter v type varchar(50)",
            "insert into inc values (100,'vc')",
            "delete from inc where id=100",
        ),
    ),
    Case(
        "29_partitioned",
        (
            "insert into parted values (3,'eu','n3')",
            "update parted set note='n3b' where id=3",
            "update parted set region='us' where id=3",
            "delete from parted where id=3",
        ),
    ),
    Case(
        "30_mixed_case_names",
        (
            'update "Mixed Case" set "Full Name"=\'J. Doe\' where "Id"=1',
            'delete from "Mixed Case" where "Id"=1',
        ),
    ),
    Case(
        "31_types_edge",
        (
            "insert into articles(id,title,price,views,created_at,updated_at,day,ratio,r4,meta,tags,raw)"
            " values (50,'edge',-0.01,-9223372036854775808,'infinity','-infinity','infinity','NaN',"
            "'Infinity','\"str\"','{}','\\x')",
            "insert into articles(id,title,price,created_at,updated_at,day,tags,meta) values"
            " (51,'old','NaN','0001-01-01 00:00:00+00 BC','1969-12-31 23:59:59.999999','1600-02-29',"
            "array[null,'x,\"y']::text[],'null')",
        ),
    ),
    Case(
        "32_large_value",
        (
            "insert into docs_full values (90,'1MB', repeat('0123456789abcdef',62500))",
            "delete from docs_full where id=90",
        ),
    ),
    Case(
        "33_create_table_while_streaming",
        ("create table later(id int primary key, v text)", "insert into later values (1,'x')"),
    ),
    Case(
        "34_logical_message",
        (
            "select pg_logical_emit_message(true,'app','hello é')",
            "select pg_logical_emit_message(false,'app','non-transactional')",
        ),
    ),
    Case(
        "39_interleaved_txs",
        (
            "A: begin",
            "A: insert into users values ('ilA','a')",
            "A: insert into articles(id,title) values (60,'A first')",
            "B: begin",
            "B: insert into users values ('ilB','b')",
            "B: insert into articles(id,title) values (61,'B')",
            "B: commit",
            "A: update users set full_name='a2' where email='ilA'",
            "A: commit",
        ),
    ),
    Case(
        "35_incremental_snapshot",
        (
            _signal("ad-hoc-1", '"type":"incremental"'),
            "update inc set v='changed during' where id=5",
        ),
        reads=6,
    ),
    Case(
        "36_incremental_snapshot_filtered",
        (
            _signal(
                "ad-hoc-2",
                '"type":"incremental", "additional-conditions":'
                '[{"data-collection":"public.inc","filter":"id>5"}]',
            ),
        ),
        reads=2,
    ),
    Case("37_blocking_snapshot", (_signal("ad-hoc-3", '"type":"blocking"'),), reads=7),
    Case(
        "38_log_signal",
        (
            "insert into debezium_signal values"
            " ('log-1','log','{\"message\": \"Signal message at offset {}\"}')",
        ),
    ),
    # The cases from here on are not in the corpus files that were captured by other means.
    Case(
        "40_toast_other_types",
        (
            "update toasted set title='t1b' where id=1",
            "update toasted set tags=array['short'], title='t1c' where id=1",
            "update toasted set meta='{\"short\":true}', raw='\\x00' where id=1",
            "update toasted_more set title='m1b' where id=1",
        ),
    ),
    Case("41_toast_pk_change_other_types", ("update toasted set id=2, title='t2' where id=1",)),
    Case(
        "42_types_more",
        (
            "insert into kinds(id,cost,flag,flags,span,big,exact,whole,small,ttz,attrs,nums)"
            " values (3,-0.01,B'0',B'0000000000',interval '-1 day -00:00:01','NaN',-0.0000000001,0,0,"
            "'23:59:59.999999-08','','{}')",
            "update kinds set big=-1.5e-20, cost=-92233720368547758.08 where id=3",
            "update kinds set big=1e30, span=interval '0' where id=3",
        ),
    ),
    Case(
        "43_toast_delete_insert_tx",
        (
            "begin",
            "delete from swapped where id=1",
            f"insert into swapped values (1,'s1 again','again '||{LONG})",
            "update swapped set title='s1 once more' where id=1",
            "commit",
        ),
    ),
    Case(
        "44_toast_two_keys_swapped_tx",
        (
            "begin",
            "update swapped set id=-1 where id=1",
            "update swapped set id=1 where id=2",
            "update swapped set id=2 where id=-1",
            "commit",
        ),
    ),
    Case(
        "45_toast_key_changes_chained",
        (
            "update swapped set id=3 where id=1",
            "update swapped set title='moved on' where id=3",
            "update swapped set id=4 where id=3",
            f"insert into swapped values (3,'s3','three '||{LONG})",
        ),
    ),
    Case(
        "46_partition_move_toasted",
        (
            "update areas set title='a1b' where id=1",
            "update areas set region='us' where id=1",
            "update areas set title='a1c' where id=1",
            f"insert into areas values (2,'eu','a2',{LONG})",
            "update areas set id=3 where id=2",
        ),
    ),
    Case(
        "47_generated_column",
        (
            "update computed set qty=4 where id=1",
            "insert into computed(id,title,qty,price) values (2,'c2',2,0.10)",
        ),
    ),
    Case(
        "48_soft_delete",
        (
            "update flagged set deleted=true, deleted_at='2024-01-02 03:04:05+00' where id=1",
            "insert into flagged values (3,'born deleted',true,null)",
        ),
    ),
    Case(
        "49_soft_undelete",
        (
            "update flagged set deleted=false, deleted_at=null where id=1",
            "update flagged set deleted=true where id=2",
            "delete from flagged where id=2",
        ),
    ),
    Case(
        "50_rename_text_column",
        (
            "alter table renamed rename column body to content",
            "update renamed set content='content one' where id=1",
            "insert into renamed values (3,'content three')",
        ),
    ),
    Case(
        "51_foreign_key_cascades",
        ("update parents set id=9 where id=1", "delete from parents where id=9"),
    ),
    Case(
        "52_keys_of_many_types",
        (
            "update keyed set note='k1b'",
            "insert into keyed values ('00000000-0000-0000-0000-000000000000',-0.01,'1969-12-31',"
            "'1969-12-31 23:59:59.999999+00',false,'k2')",
            "update keyed set n=2.50, d='2024-02-29' where note='k1b'",
            "delete from keyed where note='k2'",
        ),
    ),
    Case(
        "53_keys_of_odd_characters",
        (
            "insert into users values ('ü %41#:,\"\\'||chr(9)||'漢🎉','odd'),('ü %41','odd too')",
            "update users set full_name='odder' where email like 'ü %41#%'",
            "delete from users where email = 'ü %41'",
        ),
    ),
    Case(
        "54_truncate_then_insert_tx",
        (
            "begin",
            "insert into emptied values (3,'gone with the rest')",
            "truncate emptied",
            "insert into emptied values (1,'e1 after'),(4,'e4')",
            "commit",
        ),
    ),
    Case(
        "55_insert_then_truncate",
        (
            "insert into emptied values (5,'e5')",
            "truncate emptied restart identity",
            "insert into emptied values (6,'e6')",
        ),
    ),
    Case("56_truncate_cascade", ("truncate parents cascade",)),
    Case(
        "57_merge",
        (
            "merge into emptied t using (values (6,'e6 merged'),(7,'e7')) s(id,v) on t.id=s.id"
            " when matched then update set v=s.v when not matched then insert values (s.id,s.v)",
            "merge into emptied t using (values (7)) s(id) on t.id=s.id when matched then delete",
        ),
    ),
    Case(
        "58_replica_identity_full_later",
        (
            "alter table late_identity replica identity full",
            "insert into late_identity values (2,'y')",
            "update late_identity set b='z', a=3 where a=2",
            "delete from late_identity where a=1",
        ),
    ),
    Case(
        "59_many_rows_one_statement",
        (
            "insert into inc select g, 'many '||g from generate_series(200,239) g",
            "update inc set v=v||'!' where id>=200",
            "delete from inc where id>=220",
        ),
    ),
    Case(
        "60_toast_soft_delete",
        (
            "update flagged_docs set deleted=true where id=1",
            "update flagged_docs set deleted=true where id=2",
            "update flagged_docs set deleted=false, title='f2b' where id=2",
        ),
    ),
    Case("61_toast_soft_undelete", ("update flagged_docs set deleted=false where id=1",)),
    Case(
        "62_toast_key_change_then_delete_tx",
        (
            "begin",
            "update swapped set id=8 where id=2",
            "update swapped set title='not for long' where id=8",
            "delete from swapped where id=8",
            "commit",
        ),
    ),
)
