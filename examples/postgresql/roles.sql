-- Three roles: who owns the tables writes no records, who writes cannot change or read back what is written,
-- who searches can only read.
\getenv owner OWNER_PASSWORD
\getenv writer WRITER_PASSWORD
\getenv reader READER_PASSWORD
CREATE ROLE cartulary_owner LOGIN PASSWORD :'owner';
CREATE ROLE cartulary_writer LOGIN PASSWORD :'writer';
CREATE ROLE cartulary_reader LOGIN PASSWORD :'reader';
ALTER DATABASE archive OWNER TO cartulary_owner;
